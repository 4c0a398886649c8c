package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// client makes JSON calls with one Authorization header.
type client struct {
	authorization string
}

// statusError is an answer other than success.
type statusError struct {
	status       int
	method, url  string
	errorCode    string // OAuth's "error"
	errorMessage string
}

// Error is worded as the real runner prints it.
func (e *statusError) Error() string {
	return fmt.Sprintf("Http response code: %s from '%s %s'\n%s\nResponse status code does not indicate success: %d (%s).",
		strings.ReplaceAll(http.StatusText(e.status), " ", ""), e.method, e.url, e.errorMessage, e.status,
		http.StatusText(e.status))
}

// callRetrying tries three times, 1 to 5 s apart, except on 404, as the real
// runner does while it configures.
func (c *client) callRetrying(ctx context.Context, method, address string, in, out any) error {
	for try := 1; ; try++ {
		err := c.call(ctx, method, address, in, out)
		var se *statusError
		if err == nil || try == 3 || errors.As(err, &se) && se.status == http.StatusNotFound {
			return err
		}
		fmt.Printf("Failed to create or get %s, try again.\n", method)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second + time.Duration(rand.IntN(1000))*time.Millisecond):
		}
	}
}

func (c *client) call(ctx context.Context, method, address string, in, out any) error {
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
	req.Header.Set("User-Agent", "GitHubActionsRunner-linux-x64/"+version)
	req.Header.Set("Content-Type", "application/json")
	if _, ok := in.(url.Values); ok {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if c.authorization != "" {
		req.Header.Set("Authorization", c.authorization)
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
		se := &statusError{status: resp.StatusCode, method: method, url: address,
			errorMessage: strings.TrimSpace(string(data))}
		var oauth struct{ Error string }
		_ = json.Unmarshal(data, &oauth) // not every error is JSON
		se.errorCode = oauth.Error
		return se
	}

	if out == nil || len(data) == 0 {
		return nil
	}
	return json.Unmarshal(data, out)
}

// networkError words a failure to connect as .NET does.
func networkError(err error, host string) error {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return runnerErrorf("Name or service not known (%s)", host)
	case errors.Is(err, syscall.ECONNREFUSED):
		return runnerErrorf("Connection refused (%s)", host)
	case errors.Is(err, syscall.ENETUNREACH):
		return runnerErrorf("Network is unreachable (%s)", host)
	}
	return runnerErrorf("An error occurred while sending the request. %v", err)
}

// runnerError is an error in the words of the runner, or of .NET.
type runnerError string

func (e runnerError) Error() string { return string(e) }

func runnerErrorf(format string, args ...any) error {
	return runnerError(fmt.Sprintf(format, args...))
}
