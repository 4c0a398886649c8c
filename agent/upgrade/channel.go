package upgrade

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// span is a part of a file, in bytes: from its first byte to before end.
type span struct{ from, end int64 }

func (s span) size() int64 { return s.end - s.from }

// errNoRanges is the error of a server that cannot send a part of a file.
var errNoRanges = errors.New("the server does not send parts of files")

// channel is a directory of update sets. Nothing that it sends is trusted.
type channel interface {
	// open returns a part of a file in the directory base, or in that of the
	// index if base is empty. size is that of the whole file, or negative if it
	// is unknown and the file is wanted from its start, up to part.end.
	open(ctx context.Context, base, name string, part span, size int64) (io.ReadCloser, error)
}

// newChannel returns the channel at an http or https URL, or in a local
// directory.
func newChannel(source string) (channel, error) {
	if filepath.IsAbs(source) {
		return dirChannel{source}, nil
	}
	u, err := url.Parse(source)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("source %.80q is %w", source, ErrSource)
	}
	return newHTTPChannel(strings.TrimRight(source, "/") + "/"), nil
}

// dirChannel is a directory of this host, as of a USB stick.
type dirChannel struct{ dir string }

func (d dirChannel) open(_ context.Context, _, name string, part span, size int64) (io.ReadCloser, error) {
	// The opening of a FIFO would wait for its writer.
	f, err := os.OpenFile(filepath.Join(d.dir, name), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if wrapped := (*fs.PathError)(nil); errors.As(err, &wrapped) {
		return nil, wrapped.Err // the caller's message has file and source
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", name)
	}
	if err == nil && size >= 0 && info.Size() != size {
		err = fmt.Errorf("%s has %d bytes, its manifest lists %d", name, info.Size(), size)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, part.from, part.size()), f}, nil
}

// httpChannel is a directory of a web server.
type httpChannel struct {
	base   string
	client *http.Client
	// A request may take grace and the time that its bytes take at slowest bytes a
	// second: a server must not hold an upgrade for ever.
	grace   time.Duration
	slowest int64
}

const maxRedirects = 5

func newHTTPChannel(base string) *httpChannel {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	// Parts are of the file as it is.
	transport.DisableCompression = true
	client := &http.Client{Transport: transport, CheckRedirect: checkRedirect}
	return &httpChannel{base: base, client: client, grace: time.Minute, slowest: 64 << 10}
}

func checkRedirect(r *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if via[0].URL.Scheme == "https" && r.URL.Scheme != "https" {
		return errors.New("redirect from https to " + r.URL.Scheme)
	}
	return nil
}

func (h *httpChannel) open(ctx context.Context, base, name string, part span, size int64) (io.ReadCloser, error) {
	if base == "" {
		base = h.base
	}
	limit := h.grace + time.Duration(part.size()/h.slowest)*time.Second
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the server took more than %s", limit))

	body, err := h.get(ctx, base+url.PathEscape(name), part, size)
	if err != nil {
		err = explain(ctx, err)
		cancel()
		return nil, err
	}
	return &response{ctx: ctx, body: body, cancel: cancel, left: part.size()}, nil
}

func (h *httpChannel) get(ctx context.Context, address string, part span, size int64) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	ranged := size >= 0 && part != span{0, size}
	if ranged {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", part.from, part.end-1))
	}

	answer, err := h.client.Do(request)
	if err != nil {
		return nil, err
	}
	if err := checkAnswer(answer, part, size, ranged); err != nil {
		_ = answer.Body.Close()
		return nil, err
	}
	return answer.Body, nil
}

// checkAnswer compares status and sizes of an answer with what was asked for.
func checkAnswer(answer *http.Response, part span, size int64, ranged bool) error {
	switch {
	case ranged && (answer.StatusCode == http.StatusOK || answer.StatusCode == http.StatusRequestedRangeNotSatisfiable):
		return errNoRanges
	case ranged && answer.StatusCode == http.StatusPartialContent:
		want := fmt.Sprintf("bytes %d-%d/%d", part.from, part.end-1, size)
		if got := answer.Header.Get("Content-Range"); got != want {
			return fmt.Errorf("the server sent %.80q, asked for %q", got, want)
		}
		return nil
	case answer.StatusCode != http.StatusOK:
		return &statusError{answer.StatusCode}
	case size >= 0 && answer.ContentLength >= 0 && answer.ContentLength != size:
		return fmt.Errorf("the file has %d bytes, its manifest lists %d", answer.ContentLength, size)
	}
	return nil
}

// statusError is an answer with a status other than the one that was wanted.
type statusError struct{ status int }

func (e *statusError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("the server answered %d %s", e.status, http.StatusText(e.status)))
}

// explain adds the fix to errors of a connection, and drops the address that
// net/http puts into them: a redirect can carry a secret in it.
func explain(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var certificate x509.CertificateInvalidError
	if errors.As(err, &certificate) && certificate.Reason == x509.Expired {
		return fmt.Errorf("the server's certificate is not valid at the time of this appliance's clock (%s); "+
			"let NTP reach a time server (timedatectl shows the state)", certificate.Detail)
	}
	if unknown := (x509.UnknownAuthorityError{}); errors.As(err, &unknown) {
		return errors.New("the server's certificate is not trusted; name the file of its authority in RUNNER_CA_CERTS")
	}
	if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// response is the body of an answer: at most the bytes asked for.
type response struct {
	ctx    context.Context
	body   io.ReadCloser
	cancel context.CancelFunc
	left   int64
}

// Read implements io.Reader.
func (r *response) Read(p []byte) (int, error) {
	if r.left <= 0 {
		return 0, io.EOF
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = explain(r.ctx, err)
	}
	return n, err
}

// Close implements io.Closer.
func (r *response) Close() error {
	r.cancel()
	return r.body.Close()
}
