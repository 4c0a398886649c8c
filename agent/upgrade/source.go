package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// Source is a directory of files at an http or https URL, or of this host. Nothing
// that it sends is trusted.
type Source struct{ channel channel }

// OpenSource returns the directory at a URL or an absolute path. Requests go
// through transport; nil is for that of upgrades.
func OpenSource(source string, transport http.RoundTripper) (*Source, error) {
	c, err := newChannel(source)
	if err != nil {
		return nil, err
	}
	if web, ok := c.(*httpChannel); ok && transport != nil {
		web.client.Transport = transport
	}
	return &Source{c}, nil
}

// Open returns a file: its first limit bytes, if it has more.
func (s *Source) Open(ctx context.Context, name string, limit int64) (io.ReadCloser, error) {
	return s.channel.open(ctx, "", name, span{0, limit}, -1)
}

// Read returns the content of a file of at most limit bytes.
func (s *Source) Read(ctx context.Context, name string, limit int64) ([]byte, error) {
	body, err := s.Open(ctx, name, limit+1)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s has more than %d KiB", name, limit>>10)
	}
	return data, nil
}

// StatusCode returns the status of the answer that an error is about, or 0.
func StatusCode(err error) int {
	if answer := (*statusError)(nil); errors.As(err, &answer) {
		return answer.status
	}
	return 0
}
