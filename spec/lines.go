package spec

import (
	"strconv"
	"strings"
)

// lineIndex tells on which line of a TOML document a key stands, which the
// decoder does not say once it has accepted the syntax. Keys are joined by
// dots; the elements of an array of strings are "key[0]", "key[1]" and so on.
type lineIndex map[string]int

// indexLines scans a document that the decoder has accepted.
func indexLines(text string) lineIndex {
	s := &lineScanner{text: text, line: 1, index: lineIndex{}}
	for s.skipBlank(); s.pos < len(s.text); s.skipBlank() {
		if s.text[s.pos] == '[' {
			s.table = s.header()
			s.index.add(s.table, s.line)
			continue
		}
		line := s.line
		key := s.until("=")
		key = strings.Join(splitKey(key), ".")
		if s.table != "" {
			key = s.table + "." + key
		}
		s.index.add(key, line)
		s.pos++ // the equals sign
		s.value(key)
	}
	return s.index
}

// add records the first line a key is seen on.
func (x lineIndex) add(key string, line int) {
	if _, known := x[key]; !known {
		x[key] = line
	}
}

// of gives the line of a key, or of the nearest table around it.
func (x lineIndex) of(key string) int {
	for key != "" {
		if line, ok := x[key]; ok {
			return line
		}
		key = key[:max(0, strings.LastIndexAny(key, ".["))]
	}
	return 1
}

type lineScanner struct {
	text  string
	pos   int
	line  int
	table string
	index lineIndex
}

// skipBlank moves to the next character that is neither space nor comment.
func (s *lineScanner) skipBlank() {
	for s.pos < len(s.text) {
		switch c := s.text[s.pos]; {
		case c == '\n':
			s.line++
		case c == '#':
			for s.pos+1 < len(s.text) && s.text[s.pos+1] != '\n' {
				s.pos++
			}
		case c != ' ' && c != '\t' && c != '\r':
			return
		}
		s.pos++
	}
}

// header reads "[a.b]" or "[[a.b]]" and gives "a.b".
func (s *lineScanner) header() string {
	for s.pos < len(s.text) && s.text[s.pos] == '[' {
		s.pos++
	}
	key := s.until("]")
	for s.pos < len(s.text) && s.text[s.pos] == ']' {
		s.pos++
	}
	return strings.Join(splitKey(key), ".")
}

// until gives the text up to one of the stop characters outside quotes.
func (s *lineScanner) until(stop string) string {
	start := s.pos
	for s.pos < len(s.text) && !strings.ContainsRune(stop, rune(s.text[s.pos])) {
		if c := s.text[s.pos]; c == '"' || c == '\'' {
			s.quoted()
			continue
		}
		if s.text[s.pos] == '\n' {
			s.line++
		}
		s.pos++
	}
	return s.text[start:s.pos]
}

// value skips a value, recording the lines of the elements of an array.
func (s *lineScanner) value(key string) {
	depth, element := 0, 0
	for s.pos < len(s.text) {
		switch c := s.text[s.pos]; c {
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		case '"', '\'':
			if depth == 1 {
				s.index.add(key+"["+strconv.Itoa(element)+"]", s.line)
				element++
			}
			s.quoted()
			continue
		case '#':
			s.skipBlank()
			continue
		case '\n':
			if depth == 0 {
				return
			}
			s.line++
		}
		s.pos++
	}
}

// quoted skips a string of any of the four kinds.
func (s *lineScanner) quoted() {
	quote := s.text[s.pos : s.pos+1]
	if strings.HasPrefix(s.text[s.pos:], strings.Repeat(quote, 3)) {
		quote = strings.Repeat(quote, 3)
	}
	s.pos += len(quote)
	for s.pos < len(s.text) && !strings.HasPrefix(s.text[s.pos:], quote) {
		switch {
		case s.text[s.pos] == '\\' && quote[0] == '"' && s.pos+1 < len(s.text):
			if s.text[s.pos+1] == '\n' {
				s.line++
			}
			s.pos++
		case s.text[s.pos] == '\n':
			s.line++
		}
		s.pos++
	}
	s.pos = min(s.pos+len(quote), len(s.text))
}

// splitKey parts a dotted key and takes the quotes off its parts.
func splitKey(key string) []string {
	var parts []string
	for part := range strings.SplitSeq(key, ".") {
		parts = append(parts, strings.Trim(strings.TrimSpace(part), `"'`))
	}
	return parts
}
