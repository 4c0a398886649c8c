package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// Code classifies a failure for whoever asked. It survives wrapping with %w
// and the way over a connection.
type Code string

const (
	// CodeOther is every failure that has no code of its own.
	CodeOther Code = ""
	// CodeUnsupported is a valid request for something that guests do not
	// offer or that root does not allow. Asking again does not help.
	CodeUnsupported Code = "unsupported"
	// CodeNotFound is a request that names something which does not exist.
	CodeNotFound Code = "not found"
)

// maxMessage bounds the text of a failure, in bytes. The peer may be hostile,
// and its text ends up in logs.
const maxMessage = 8 << 10

// Error is a failure with a code. Over a connection it is the payload of a
// Failure frame.
type Error struct {
	Code    Code   `json:"code,omitempty"`
	Message string `json:"message"`

	err error // the failure itself, on the side where it happened
}

func (e *Error) Error() string { return e.Message }

func (e *Error) Unwrap() error { return e.err }

// WithCode returns err with a code. The text stays the same.
func WithCode(code Code, err error) error {
	return &Error{Code: code, Message: err.Error(), err: err}
}

// Unsupported returns a formatted error with CodeUnsupported.
func Unsupported(format string, args ...any) error {
	return WithCode(CodeUnsupported, fmt.Errorf(format, args...))
}

// CodeOf returns the code of the first error in err's tree that has one.
func CodeOf(err error) Code {
	var coded *Error
	if errors.As(err, &coded) {
		return coded.Code
	}
	return CodeOther
}

// SendFailure ends a conversation with the text of err and its code.
func (c *Conn) SendFailure(err error) error {
	message := err.Error()
	return c.SendJSON(Failure, Error{Code: CodeOf(err), Message: message[:min(len(message), maxMessage)]})
}

// readFailure returns the error that a Failure frame carries.
func readFailure(payload []byte) error {
	e := &Error{}
	if err := json.Unmarshal(payload, e); err != nil {
		return fmt.Errorf("cannot read failure: %w", err)
	}

	e.Message = printable(e.Message[:min(len(e.Message), maxMessage)])
	return e
}

// printable returns s without what could drive a terminal or open a line that
// the runner takes for a workflow command. Line ends and tabs stay: the hook
// writes a message in one line anyway.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
}
