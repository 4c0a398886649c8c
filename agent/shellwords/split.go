// Package shellwords splits command lines as Python's shlex does. Libraries for
// Go have other grammars, and the hooks need this one.
package shellwords

import (
	"errors"
	"strings"
)

// The errors of Split.
var (
	ErrQuote  = errors.New("the command line has a quote that is not closed")
	ErrEscape = errors.New("the command line ends in a backslash")
)

// Split splits a command line as Python's shlex.split does: at blanks, with
// the quotes and escapes of sh(1); no other character has a meaning. GitHub's
// reference hooks use a port of it, so what works there works here. Split fails
// with ErrQuote or ErrEscape.
func Split(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	started := false // a word; also by quotes around nothing

	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case strings.IndexByte(" \t\r\n", c) >= 0:
			if started {
				words = append(words, word.String())
				word.Reset()
				started = false
			}
			continue

		case c == '\\':
			if i++; i == len(line) {
				return nil, ErrEscape
			}
			word.WriteByte(line[i])

		case c == '\'':
			n := strings.IndexByte(line[i+1:], c)
			if n < 0 {
				return nil, ErrQuote
			}
			word.WriteString(line[i+1 : i+1+n])
			i += n + 1

		case c == '"':
			n, err := doubleQuoted(&word, line[i+1:])
			if err != nil {
				return nil, err
			}
			i += n

		default:
			word.WriteByte(c)
		}
		started = true
	}

	if started {
		words = append(words, word.String())
	}
	return words, nil
}

// doubleQuoted appends s up to the closing quote to word and returns how many
// bytes of s that is, including the quote. A backslash escapes a backslash and a
// quote, and is an ordinary character elsewhere.
func doubleQuoted(word *strings.Builder, s string) (int, error) {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '"' {
			return i + 1, nil
		}
		if c == '\\' && i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\') {
			i++
			c = s[i]
		}
		word.WriteByte(c)
	}
	return 0, ErrQuote
}
