package spec

import (
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// lineIndex knows the line of each key in a TOML document, which the TOML library
// keeps to itself once it has accepted the syntax. Keys are named as dotted
// returns them; the elements of an array are "key[0]", "key[1]" and so on.
type lineIndex struct {
	stated  map[string]int // lines of keys and tables that are written out
	implied map[string]int // lines of tables that only begin the name of others
}

// indexLines scans a document that the TOML library has accepted.
func indexLines(text string) *lineIndex {
	s := &lineScanner{text: text, line: 1,
		index: &lineIndex{stated: map[string]int{}, implied: map[string]int{}}}
	table := ""
	for s.skipBlank(); s.more(); s.skipBlank() {
		if s.at('[') {
			table = s.header()
		} else {
			s.pair(table)
		}
	}
	return s.index
}

// dotted returns the full name of a key in a table, with the quotes it needs.
func dotted(table, key string) string {
	name := toml.Key{key}.String()
	if table == "" {
		return name
	}
	return table + "." + name
}

// add records the line of a key of the table, and of the tables in between, unless
// an earlier one is known. It returns the full name of the key.
func (x *lineIndex) add(table string, key toml.Key, line int) string {
	name := table
	for i, part := range key {
		name = dotted(name, part)
		seen := x.implied
		if i == len(key)-1 {
			seen = x.stated
		}
		if _, known := seen[name]; !known {
			seen[name] = line
		}
	}
	return name
}

// of returns the line of a key, or of the nearest table around it.
func (x *lineIndex) of(key string) int {
	for key != "" {
		if line, ok := x.stated[key]; ok {
			return line
		}
		if line, ok := x.implied[key]; ok {
			return line
		}
		key = key[:max(0, strings.LastIndexAny(key, ".["))]
	}
	return 1
}

// lineScanner walks through the bytes of a document. It need not find mistakes.
type lineScanner struct {
	text  string
	pos   int // of the next byte
	line  int // of the next byte, from 1
	index *lineIndex
}

func (s *lineScanner) more() bool { return s.pos < len(s.text) }

func (s *lineScanner) at(c byte) bool { return s.more() && s.text[s.pos] == c }

// next moves over one byte.
func (s *lineScanner) next() {
	if s.at('\n') {
		s.line++
	}
	s.pos++
}

// skip moves over c if it is the next byte, and reports whether it was.
func (s *lineScanner) skip(c byte) bool {
	found := s.at(c)
	if found {
		s.next()
	}
	return found
}

// skipBlank moves to the next character that is neither space nor comment.
func (s *lineScanner) skipBlank() {
	for s.more() {
		switch s.text[s.pos] {
		case '#':
			for s.more() && !s.at('\n') {
				s.next()
			}
		case ' ', '\t', '\r', '\n':
			s.next()
		default:
			return
		}
	}
}

// header reads "[a.b]" or "[[a.b]]" and returns the full name.
func (s *lineScanner) header() string {
	line := s.line
	for s.skip('[') {
	}
	key := parseKey(s.until(']'))
	for s.skip(']') {
	}
	return s.index.add("", key, line)
}

// pair reads "key = value" in a table.
func (s *lineScanner) pair(table string) {
	line := s.line
	key := parseKey(s.until('='))
	s.skip('=')
	s.value(s.index.add(table, key, line))
}

// until returns the text up to the byte stop outside quotes.
func (s *lineScanner) until(stop byte) string {
	start := s.pos
	for s.more() && !s.at(stop) {
		if s.at('"') || s.at('\'') {
			s.quoted()
		} else {
			s.next()
		}
	}
	return s.text[start:s.pos]
}

// value skips the value of the key, recording what is inside it.
func (s *lineScanner) value(key string) {
	s.skipBlank()
	switch {
	case s.skip('['):
		s.array(key)
	case s.skip('{'):
		s.inlineTable(key)
	case s.at('"'), s.at('\''):
		s.quoted()
	default: // a number, a date or a boolean; dates may hold a space
		for s.more() && !strings.ContainsRune(",]}#\n", rune(s.text[s.pos])) {
			s.next()
		}
	}
}

// array skips the elements of an array and its end.
func (s *lineScanner) array(key string) {
	for i := 0; s.inside(']'); i++ {
		element := key + "[" + strconv.Itoa(i) + "]"
		s.index.stated[element] = s.line
		s.value(element)
		if !s.separator() {
			break
		}
	}
	s.skip(']')
}

// inlineTable skips the pairs of an inline table and its end.
func (s *lineScanner) inlineTable(key string) {
	for s.inside('}') {
		s.pair(key)
		if !s.separator() {
			break
		}
	}
	s.skip('}')
}

// inside moves to the next element and reports whether there is one.
func (s *lineScanner) inside(end byte) bool {
	s.skipBlank()
	return s.more() && !s.at(end)
}

// separator moves over a comma and reports whether there was one.
func (s *lineScanner) separator() bool {
	s.skipBlank()
	return s.skip(',')
}

// quoted skips a string of any of the four kinds.
func (s *lineScanner) quoted() {
	quote := s.text[s.pos]
	mark := string(quote)
	if long := strings.Repeat(mark, 3); strings.HasPrefix(s.text[s.pos:], long) {
		mark = long
	}

	s.pos += len(mark)
	for s.more() && !strings.HasPrefix(s.text[s.pos:], mark) {
		if quote == '"' {
			s.skip('\\') // and then what it escapes
		}
		s.next()
	}

	if s.pos = min(s.pos+len(mark), len(s.text)); len(mark) == 3 {
		// The text of a multi-line string may itself end in two quotes.
		for n := 0; n < 2 && s.skip(quote); n++ {
		}
	}
}

// parseKey returns the parts of a dotted key as the TOML library reads them.
func parseKey(text string) toml.Key {
	var doc map[string]any
	meta, err := toml.Decode(text+" = 0", &doc)
	if keys := meta.Keys(); err == nil && len(keys) > 0 {
		return keys[len(keys)-1]
	}
	return toml.Key{strings.TrimSpace(text)}
}
