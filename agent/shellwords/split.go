// Package shellwords splits command lines as GitHub's reference hooks do, by
// version 3.0.0 of the npm package shlex. Libraries for Go have other grammars.
package shellwords

import (
	"errors"
	"strings"
	"unicode/utf16"
)

// The errors of Split.
var (
	ErrQuote  = errors.New("the command line has a quote that is not closed")
	ErrEscape = errors.New("the command line ends in a backslash")
)

// Split splits a command line at blanks, with quotes, escapes and continued lines
// of sh(1) and the $'...' and $"..." of bash(1); no other character has a meaning.
// It returns exactly the words of the reference, oddities included, see
// closeQuote and unescapeANSI. Split fails with ErrQuote or ErrEscape.
func Split(line string) ([]string, error) {
	s := splitter{dollar: -2}
	escaped := false
	for i, c := range utf16.Encode([]rune(line)) {
		switch {
		case escaped:
			escaped = false
			s.escape(c)
		case c == '\\' && s.quote != single:
			escaped = true
		case s.quote != none && c == s.quote.end():
			s.closeQuote()
		case s.quote != none:
			s.word = append(s.word, c)
		case c == '\'' || c == '"':
			s.openQuote(c, s.dollar == i-1)
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			s.endWord()
		default:
			if c == '$' {
				s.dollar = i
			}
			s.add(c)
		}
	}

	if s.quote != none {
		return nil, ErrQuote
	}
	if escaped {
		return nil, ErrEscape
	}
	s.endWord()
	return s.words, nil
}

// quote is the kind of quotes around a character.
type quote int

const (
	none   quote = iota
	single       // '...'
	double       // "..." and $"..."
	ansi         // $'...'
)

func (q quote) end() uint16 {
	if q == double {
		return '"'
	}
	return '\''
}

// splitter is how far a line has been split. Its characters are those of
// JavaScript, UTF-16 code units, which escapes can name.
type splitter struct {
	words   []string
	word    []uint16 // so far; with its escapes inside of quotes
	started bool     // there is a word, also by quotes around nothing
	quote   quote    // around the next character
	dollar  int      // where the last $ was that may belong to a quote
}

func (s *splitter) add(c ...uint16) {
	s.word, s.started = append(s.word, c...), true
}

// escape takes the character behind a backslash. A line feed continues the line.
func (s *splitter) escape(c uint16) {
	switch {
	case c == '\n':
	case s.quote != none:
		s.add('\\', c) // for closeQuote
	default:
		s.add(c)
	}
}

func (s *splitter) openQuote(c uint16, afterDollar bool) {
	s.quote, s.started = single, true
	if c == '"' {
		s.quote = double
	}
	if afterDollar {
		s.word = s.word[:len(s.word)-1]
		if c == '\'' {
			s.quote = ansi
		}
	}
}

// closeQuote replaces the escapes of the word. As in the reference, that includes
// what the word has before the quote: \\\\"" is one backslash.
func (s *splitter) closeQuote() {
	switch s.quote {
	case double:
		s.word = unescape(s.word, func(rest []uint16) (uint16, int) {
			if len(rest) > 0 && (rest[0] == '\\' || rest[0] == '"') {
				return rest[0], 1
			}
			return 0, 0
		})
	case ansi:
		s.word = unescape(s.word, unescapeANSI)
	}
	s.quote = none
}

func (s *splitter) endWord() {
	if s.started {
		s.words = append(s.words, string(utf16.Decode(s.word)))
	}
	s.word, s.started = nil, false
}

// unescape replaces each escape of a word: read returns what stands for the
// characters behind a backslash, and how many they are. With 0 of them, the
// backslash is an ordinary character.
func unescape(word []uint16, read func(rest []uint16) (c uint16, n int)) []uint16 {
	var plain []uint16
	for i := 0; i < len(word); i++ {
		c := word[i]
		if c == '\\' {
			if replaced, n := read(word[i+1:]); n > 0 {
				c, i = replaced, i+n
			}
		}
		plain = append(plain, c)
	}
	return plain
}

// unescapeANSI reads what stands behind a backslash in $'...', see "ANSI-C
// Quoting" in bash(1). As in the reference, a number names a code unit and not a
// byte, and one of several digits that ends in E is \E, an escape character.
func unescapeANSI(rest []uint16) (c uint16, n int) {
	if len(rest) == 0 {
		return 0, 0
	}
	const named, control = `\'"?abeEfnrtv`, "\\'\"?\a\b\x1b\x1b\f\n\r\t\v"
	first := rest[0]
	if i := strings.IndexRune(named, rune(first)); i >= 0 {
		return uint16(control[i]), 1
	}
	if first == 'c' {
		return controlCharacter(rest)
	}

	// The kinds of numbers: what begins them, their base, their most digits.
	for _, kind := range []struct {
		letter uint16
		base   uint32
		most   int
	}{{letter: 0, base: 8, most: 3}, {'x', 16, 2}, {'u', 16, 4}, {'U', 16, 8}} {
		start := 0
		if kind.letter != 0 {
			if first != kind.letter {
				continue
			}
			start = 1
		}
		value, digits := number(rest[start:], kind.base, kind.most)
		if digits > 0 && rest[start+digits-1] == 'E' {
			return '\x1b', start + digits
		}
		if digits > 0 {
			return uint16(value), start + digits
		}
	}
	return 0, 0
}

// controlCharacter reads cX, which is what Control and X type on a keyboard. X is
// not an end of line, of which Unicode has four.
func controlCharacter(rest []uint16) (c uint16, n int) {
	if len(rest) < 2 {
		return 0, 0
	}
	switch x := rest[1]; x {
	case '\n', '\r', '\u2028', '\u2029':
		return 0, 0
	case 'E':
		return '\x1b', 2
	case '?':
		return '\x7f', 2
	default:
		return x & 31, 2
	}
}

// number reads at most most digits of a base, and returns their value and count.
func number(rest []uint16, base uint32, most int) (value uint32, digits int) {
	const all = "0123456789abcdef"
	for ; digits < min(most, len(rest)); digits++ {
		c := rest[digits]
		if c >= 'A' && c <= 'F' {
			c += 'a' - 'A'
		}
		digit := strings.IndexRune(all[:base], rune(c))
		if digit < 0 {
			break
		}
		value = value*base + uint32(digit)
	}
	return value, digits
}
