package config

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// entry is one assignment of an environment file.
type entry struct {
	key, value string
	line       int // where the key begins, from 1
}

var keyPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Character classes of systemd's src/basic/string-util.h and escape.h.
const (
	whitespace = " \t\n\r"
	newline    = "\n\r"
	comments   = "#;"
	needEscape = "\"\\`$"
)

// envParser is systemd's parse_env_file_internal (src/basic/env-file.c, as of
// 257) state by state, so that a value means here what it means to
// EnvironmentFile=, systemd.exec(5). It differs in one way: it refuses lines
// that are not assignments and quotes left open, which systemd drops silently.
type envParser struct {
	name         string
	key, value   []byte
	keyLine      int
	line         int
	quoteLine    int
	keepValue    int // length of value up to which trailing blanks are kept
	trailing     bool
	state        parserState
	entries      []entry
	continuation bool
}

type parserState func(p *envParser, c byte) (parserState, error)

func parseEnvFile(name string, data []byte) ([]entry, error) {
	if bytes.HasPrefix(data, []byte("\xef\xbb\xbf")) {
		return nil, fmt.Errorf("%s:1: the file begins with a byte order mark; save it as UTF-8 without one", name)
	}

	p := &envParser{name: name, line: 1, state: preKey}
	for _, c := range data {
		if c == 0 {
			return nil, p.errorf(p.line, "there is a NUL byte; write plain text")
		}
		next, err := p.state(p, c)
		if err != nil {
			return nil, err
		}
		p.state = next
		if c == '\n' {
			p.line++
		}
	}

	// The end of the file ends the last line too.
	if p.quoteLine != 0 {
		return nil, p.errorf(p.quoteLine, "the quote opened here is never closed; add the closing quote")
	}
	if _, err := p.state(p, '\n'); err != nil {
		return nil, err
	}
	if p.continuation { // the last line ends in a backslash
		if err := p.push(); err != nil {
			return nil, err
		}
	}
	return p.entries, nil
}

func (p *envParser) errorf(line int, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s", p.name, line, fmt.Sprintf(format, args...))
}

func is(class string, c byte) bool { return strings.IndexByte(class, c) >= 0 }

func preKey(p *envParser, c byte) (parserState, error) {
	switch {
	case is(comments, c):
		return comment, nil
	case is(whitespace, c):
		return preKey, nil
	}
	p.key = append(p.key[:0], c)
	p.value, p.keepValue, p.trailing = p.value[:0], 0, false
	p.keyLine = p.line
	if c == '=' {
		return nil, p.errorf(p.line, "there is no key before '='; write KEY=value")
	}
	return inKey, nil
}

// inKey never quotes what it read: it may be a token on a line of its own.
func inKey(p *envParser, c byte) (parserState, error) {
	switch {
	case is(newline, c):
		return nil, p.errorf(p.keyLine, "this line has no '='; write KEY=value, "+
			"or begin the line with '#' to make it a comment")
	case c == '=':
		p.key = bytes.TrimRight(p.key, whitespace)
		if bytes.HasPrefix(p.key, []byte("export ")) {
			return nil, p.errorf(p.keyLine, "'export' is shell, this is a systemd environment file; write KEY=value only")
		}
		if !keyPattern.Match(p.key) {
			return nil, p.errorf(p.keyLine, "the text before '=' is not a name of letters, digits and underscores; "+
				"write KEY=value")
		}
		return preValue, nil
	}
	p.key = append(p.key, c)
	return inKey, nil
}

func preValue(p *envParser, c byte) (parserState, error) {
	switch {
	case is(newline, c):
		return preKey, p.push()
	case c == '\'':
		p.quoteLine = p.line
		return singleQuoted, nil
	case c == '"':
		p.quoteLine = p.line
		return doubleQuoted, nil
	case c == '\\':
		p.continuation = true
		return valueEscape, nil
	case is(whitespace, c):
		return preValue, nil
	}
	p.keep(c)
	return inValue, nil
}

func inValue(p *envParser, c byte) (parserState, error) {
	switch {
	case is(newline, c):
		if p.trailing {
			p.value = p.value[:p.keepValue]
		}
		return preKey, p.push()
	case c == '\\':
		p.trailing, p.continuation = false, true
		return valueEscape, nil
	case !is(whitespace, c):
		p.keep(c)
	default:
		if !p.trailing {
			p.trailing, p.keepValue = true, len(p.value)
		}
		p.value = append(p.value, c)
	}
	return inValue, nil
}

func valueEscape(p *envParser, c byte) (parserState, error) {
	if p.continuation = is(newline, c); !p.continuation {
		p.keep(c)
	}
	return inValue, nil
}

func singleQuoted(p *envParser, c byte) (parserState, error) {
	if c == '\'' {
		p.quoteLine = 0
		return preValue, nil
	}
	p.keep(c)
	return singleQuoted, nil
}

func doubleQuoted(p *envParser, c byte) (parserState, error) {
	switch c {
	case '"':
		p.quoteLine = 0
		return preValue, nil
	case '\\':
		return doubleQuotedEscape, nil
	}
	p.keep(c)
	return doubleQuoted, nil
}

func doubleQuotedEscape(p *envParser, c byte) (parserState, error) {
	switch {
	case is(needEscape, c):
		p.keep(c)
	case c != '\n':
		p.value = append(p.value, '\\')
		p.keep(c)
	}
	return doubleQuoted, nil
}

func comment(_ *envParser, c byte) (parserState, error) {
	if is(newline, c) {
		return preKey, nil
	}
	return comment, nil
}

func (p *envParser) keep(c byte) {
	p.trailing = false
	p.value = append(p.value, c)
}

func (p *envParser) push() error {
	p.continuation = false
	if !utf8.Valid(p.value) {
		return p.errorf(p.keyLine, "the value of %s is not UTF-8; save the file as UTF-8", p.key)
	}
	p.entries = append(p.entries, entry{string(p.key), string(p.value), p.keyLine})
	return nil
}
