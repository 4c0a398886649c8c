package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
	"github.com/mkappliance/mkappliance/internal/release"
)

// Target is the directory of a channel.
type Target interface {
	// Get returns a file of at most limit bytes. A missing one is fs.ErrNotExist.
	Get(ctx context.Context, name string, limit int64) ([]byte, error)
	// Put writes a file of size bytes, or replaces it.
	Put(ctx context.Context, name string, content io.ReadSeeker, size int64) error
}

// OpenTarget returns the target that a text names: a URL, http or https, or the
// path of a directory. The authorization is the value of a header of that name; it
// is sent to URLs, unless it is empty.
func OpenTarget(text, authorization string) (Target, error) {
	if !strings.Contains(text, "://") {
		info, err := os.Stat(text)
		if err != nil {
			return nil, fmt.Errorf("cannot publish: %w", err)
		}
		if !info.IsDir() {
			return nil, fmt.Errorf("cannot publish: %s is not a directory", text)
		}
		return directory(text), nil
	}

	if !strings.HasSuffix(text, "/") {
		text += "/"
	}
	if err := release.CheckBase(text); err != nil {
		return nil, fmt.Errorf("cannot publish: %w", err)
	}
	base, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("cannot publish: %w", err)
	}
	if authorization != "" && base.Scheme != "https" && !isLoopback(base.Hostname()) {
		return nil, fmt.Errorf("cannot publish: %s would carry the credentials unencrypted; use https", text)
	}
	return newServer(base, authorization), nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// directory is a target on this host, by its path.
type directory string

// Get implements Target.
func (d directory) Get(_ context.Context, name string, limit int64) ([]byte, error) {
	return readFile(filepath.Join(string(d), name), limit)
}

// Put implements Target. A file that is there already, because the update set
// was built into the directory, stays.
func (d directory) Put(_ context.Context, name string, content io.ReadSeeker, _ int64) error {
	path := filepath.Join(string(d), name)
	if isFile(path, content) {
		return nil
	}
	out, err := atomicfile.Create(path, 0o644)
	if err != nil {
		return err
	}
	defer out.Abandon()
	if _, err := io.Copy(out.File, content); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return out.Commit()
}

// isFile reports whether the file at path is the one that content reads.
func isFile(path string, content io.Reader) bool {
	f, ok := content.(*os.File)
	if !ok {
		return false
	}
	own, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(path)
	return err == nil && os.SameFile(own, there)
}

// server is a target that takes files by PUT.
type server struct {
	base          *url.URL
	authorization string
	client        *http.Client
	pause         time.Duration // before the second attempt; it doubles
}

const (
	// attempts is how often a request is tried.
	attempts = 4
	// answerTimeout bounds the wait for the head of an answer. A server may store
	// a large file before it answers.
	answerTimeout = 5 * time.Minute
)

func newServer(base *url.URL, authorization string) *server {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = answerTimeout
	// A redirect would carry content and credentials to a place that nobody named.
	return &server{base: base, authorization: authorization, pause: 2 * time.Second, client: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Get implements Target.
func (s *server) Get(ctx context.Context, name string, limit int64) ([]byte, error) {
	var data []byte
	err := s.retry(ctx, func() error {
		response, err := s.do(ctx, http.MethodGet, name, nil, 0)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		data, err = readAll(response.Body, name, limit)
		return err
	})
	return data, err
}

// Put implements Target.
func (s *server) Put(ctx context.Context, name string, content io.ReadSeeker, size int64) error {
	return s.retry(ctx, func() error {
		if _, err := content.Seek(0, io.SeekStart); err != nil {
			return err
		}
		response, err := s.do(ctx, http.MethodPut, name, content, size)
		if err != nil {
			return err
		}
		return response.Body.Close()
	})
}

// statusError is an answer that is not a success.
type statusError struct {
	request, status string
	code            int
}

func (e *statusError) Error() string { return e.request + ": " + e.status }

// Is makes 404 and 410 a missing file.
func (e *statusError) Is(target error) bool {
	return target == fs.ErrNotExist && (e.code == http.StatusNotFound || e.code == http.StatusGone)
}

// do sends one request and returns an answer that is a success.
func (s *server) do(ctx context.Context, method, name string, body io.Reader, size int64) (*http.Response, error) {
	target := s.base.JoinPath(url.PathEscape(name)).String()
	if body != nil {
		body = io.NopCloser(body) // the client closes files
	}
	request, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, err
	}
	request.ContentLength = size
	if s.authorization != "" {
		request.Header.Set("Authorization", s.authorization)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/octet-stream")
	}

	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode >= 200 && response.StatusCode < 300 {
		return response, nil
	}
	_ = response.Body.Close()
	return nil, &statusError{request: method + " " + target, status: response.Status, code: response.StatusCode}
}

// retry tries a request again that may succeed later.
func (s *server) retry(ctx context.Context, do func() error) error {
	pause := s.pause
	for attempt := 1; ; attempt++ {
		err := do()
		if status := (*statusError)(nil); errors.As(err, &status) &&
			status.code < 500 && status.code != http.StatusTooManyRequests {
			return err
		}
		if err == nil || attempt == attempts {
			return err
		}

		select {
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		case <-time.After(pause):
		}
		pause *= 2
	}
}
