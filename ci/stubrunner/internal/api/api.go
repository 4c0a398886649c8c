// Package api makes the calls of the actions runner's listener and worker.
package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"
)

// Client makes JSON calls with one Authorization header.
type Client struct {
	Authorization string // "" for none
	UserAgent     string
}

// StatusError is an answer other than success.
type StatusError struct {
	Status      int
	Code        string // OAuth's "error"
	Description string // OAuth's "error_description"
	Kind        string // the broker's "errorKind"
	Message     string // the broker's "errorMessage"

	method, url, body string
}

// Error is worded as the real runner prints it.
func (e *StatusError) Error() string {
	if e.Description != "" {
		return e.Description
	}
	return fmt.Sprintf("Response status code does not indicate success: %d (%s).", e.Status, http.StatusText(e.Status))
}

// detail is what the real runner prints of each try.
func (e *StatusError) detail() string {
	return fmt.Sprintf("Http response code: %s from '%s %s' (Request Id: )\n%s",
		strings.ReplaceAll(http.StatusText(e.Status), " ", ""), e.method, e.url, e.body)
}

// CallRetrying tries three times, 1 to 5 s apart, except on 404, as the real
// runner does while it configures.
func (c *Client) CallRetrying(ctx context.Context, method, address string, in, out any) error {
	for try := 1; ; try++ {
		err := c.Call(ctx, method, address, in, out)
		var se *StatusError
		if errors.As(err, &se) {
			fmt.Println(se.detail())
		}
		if err == nil || try == 3 || se != nil && se.Status == http.StatusNotFound {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second + time.Duration(rand.IntN(1000))*time.Millisecond):
		}
	}
}

// Call makes one call. in is the body, JSON or url.Values; out receives the
// answer's JSON. Both may be nil.
func (c *Client) Call(ctx context.Context, method, address string, in, out any) error {
	var body io.Reader
	if form, ok := in.(url.Values); ok {
		body = strings.NewReader(form.Encode())
	} else if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}

	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", c.UserAgent)
	if _, ok := in.(url.Values); ok {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	} else if in != nil {
		req.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	if c.Authorization != "" {
		req.Header.Set("Authorization", c.Authorization)
	}

	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return networkError(err, req.URL.Host)
	}
	defer resp.Body.Close()

	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}

	if resp.StatusCode >= 300 {
		return newStatusError(resp.StatusCode, method, address, data)
	}

	if out == nil || len(data) == 0 {
		return nil
	}
	return json.Unmarshal(data, out)
}

func newStatusError(status int, method, address string, body []byte) error {
	se := &StatusError{Status: status, method: method, url: address, body: strings.TrimSpace(string(body))}
	var known struct {
		Error            string
		ErrorDescription string `json:"error_description"`
		ErrorKind        string
		ErrorMessage     string
	}
	_ = json.Unmarshal(body, &known) // not every error is JSON
	se.Code, se.Description, se.Kind, se.Message = known.Error, known.ErrorDescription, known.ErrorKind, known.ErrorMessage
	return se
}

// networkError words a failure to connect as .NET does.
func networkError(err error, host string) error {
	var dns *net.DNSError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &certificate):
		return Errorf("The SSL connection could not be established, see inner exception. (%s)", host)
	case errors.As(err, &dns):
		return Errorf("Name or service not known (%s)", host)
	case errors.Is(err, syscall.ECONNREFUSED):
		return Errorf("Connection refused (%s)", host)
	case errors.Is(err, syscall.ENETUNREACH):
		return Errorf("Network is unreachable (%s)", host)
	}
	return Errorf("An error occurred while sending the request. %v", err)
}

// Error is an error in the words of the runner, or of .NET.
type Error string

func (e Error) Error() string { return string(e) }

// Errorf returns an Error.
func Errorf(format string, args ...any) error {
	return Error(fmt.Sprintf(format, args...))
}

// UserAgent returns how a program of the runner, "Runner" or "Worker", names
// itself. more are parts such as "ClientId/...".
func UserAgent(version, program string, more ...string) string {
	parts := append([]string{"GitHubActionsRunner-linux-x64/" + version, "CommitSHA/" + strings.Repeat("0", 40),
		fmt.Sprintf("Pid/%d", os.Getpid())}, more...)
	return strings.Join(append(parts, "("+program+")"), " ")
}
