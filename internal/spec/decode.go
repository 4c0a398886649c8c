package spec

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/mkappliance/mkappliance/internal/size"
	"github.com/mkappliance/mkappliance/internal/suggest"
)

// decoder turns generic TOML values into ours. It reads the whole document and
// keeps the first error. It keeps the first missing value apart, and reports it
// only if there is no other error: the value is often there, but misspelled.
type decoder struct {
	path    string
	lines   *lineIndex
	err     error
	missing error
}

// fail records an error at a key, given by its full name.
func (d *decoder) fail(key, format string, args ...any) {
	d.err = cmp.Or(d.err, d.at(key, format, args...))
}

// at returns an error with the line of a key.
func (d *decoder) at(key, format string, args ...any) error {
	return fmt.Errorf("%s:%d: %s", d.path, d.lines.of(key), fmt.Sprintf(format, args...))
}

// table is one TOML table being read. end makes keys an error that no method has
// read.
type table struct {
	d       *decoder
	key     string // full dotted name; empty for the document
	values  map[string]any
	known   []string // keys that were read
	present bool     // false if the document has no such table
}

func (d *decoder) table(key string, values map[string]any) *table {
	return &table{d: d, key: key, values: values, present: values != nil}
}

// sub returns the full name of a key of the table.
func (t *table) sub(key string) string { return dotted(t.key, key) }

// take returns the value of a key and remembers that it is known.
func (t *table) take(key string) (any, bool) {
	t.known = append(t.known, key)
	v, ok := t.values[key]
	return v, ok
}

// missing records that a required value is missing. A missing table is recorded
// once, not once for each of its values.
func (t *table) missing(key, example string) {
	if t.present {
		where := "the top"
		if t.key != "" {
			where = "[" + t.key + "]"
		}
		t.d.missing = cmp.Or(t.d.missing,
			t.d.at(t.key, "%s is missing from %s; add a line like: %s = %s", key, where, key, example))
	}
}

func (t *table) wrongType(key, want string, got any) {
	t.d.fail(t.sub(key), "%s is %s, want %s", key, typeName(got), want)
}

func typeName(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case int64:
		return "an integer"
	case float64:
		return "a number with a point"
	case bool:
		return "a boolean"
	case []any, []map[string]any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return "a date"
}

func (t *table) integer(key string, want int64) {
	v, ok := t.take(key)
	if !ok {
		t.missing(key, strconv.FormatInt(want, 10))
		return
	}
	if got, ok := v.(int64); !ok {
		t.wrongType(key, "an integer", v)
	} else if got != want {
		t.d.fail(t.sub(key), "%s %d is unknown to this version; use %d", key, got, want)
	}
}

// text returns a required string that must not be empty.
func (t *table) text(key string) string {
	if _, ok := t.values[key]; !ok {
		t.known = append(t.known, key)
		t.missing(key, `"..."`)
		return ""
	}

	s := t.optionalText(key)
	if s == "" {
		t.d.fail(t.sub(key), "%s is empty; give it a value", key)
	}
	return s
}

func (t *table) optionalText(key string) string {
	v, ok := t.take(key)
	if !ok {
		return ""
	}
	s, ok := v.(string)
	if !ok {
		t.wrongType(key, "a string in quotes", v)
	}
	return s
}

func (t *table) optionalBool(key string, otherwise bool) bool {
	v, ok := t.take(key)
	if !ok {
		return otherwise
	}
	b, ok := v.(bool)
	if !ok {
		t.wrongType(key, "true or false", v)
	}
	return b
}

func (t *table) list(key string) []string {
	if _, ok := t.values[key]; !ok {
		t.known = append(t.known, key)
		t.missing(key, `["..."]`)
		return nil
	}
	return t.optionalList(key)
}

func (t *table) optionalList(key string) []string {
	v, ok := t.take(key)
	if !ok {
		return nil
	}

	elements, ok := v.([]any)
	if !ok {
		t.wrongType(key, "a list of strings", v)
		return nil
	}

	list := make([]string, 0, len(elements))
	for i, e := range elements {
		s, ok := e.(string)
		if !ok {
			t.d.fail(fmt.Sprintf("%s[%d]", t.sub(key), i), "%s holds %s, want only strings", key, typeName(e))
			return nil
		}
		list = append(list, s)
	}
	return list
}

// size returns a number of bytes, as ParseSize reads it.
func (t *table) size(key string) int64 {
	text := t.text(key)
	if text == "" {
		return 0
	}
	n, err := ParseSize(text)
	if err != nil {
		t.d.fail(t.sub(key), "%s %v", key, err)
	}
	return n
}

// ParseSize reads a number of bytes written like "512M" or "2G", in powers of
// 1024, up to 1 PiB.
func ParseSize(text string) (int64, error) {
	n, err := size.Parse(text, "MG")
	if err != nil || n > maxSize {
		return 0, fmt.Errorf("%q is not a size; write whole MiB or GiB, like \"512M\" or \"2G\"", text)
	}
	return n, nil
}

// maxSize is far beyond any disk, and far from where sums of sizes overflow.
const maxSize = 1 << 50

// child returns a required table.
func (t *table) child(key string) *table {
	v, ok := t.take(key)
	if !ok {
		if t.present {
			t.d.missing = cmp.Or(t.d.missing, t.d.at(t.key, "[%s] is missing; add that table", t.sub(key)))
		}
		return t.d.table(t.sub(key), nil)
	}

	values, ok := v.(map[string]any)
	if !ok {
		t.wrongType(key, "a table, ["+t.sub(key)+"]", v)
	}
	return t.d.table(t.sub(key), values)
}

// optionalChild returns a table, which is empty if the document has none.
func (t *table) optionalChild(key string) *table {
	if _, ok := t.values[key]; !ok {
		t.known = append(t.known, key)
		return t.d.table(t.sub(key), nil)
	}
	return t.child(key)
}

// tables returns the tables [key.NAME] by NAME, of which one is required.
func (t *table) tables(key string) map[string]*table {
	parent := t.child(key)
	out := map[string]*table{}
	for _, name := range slices.Sorted(maps.Keys(parent.values)) {
		out[name] = parent.child(name)
	}
	if parent.present && len(out) == 0 {
		t.d.fail(t.sub(key), "no image is described; add a table [%s.NAME]", key)
	}
	return out
}

// end records an error for the topmost key that was not read.
func (t *table) end() {
	var unknown []string
	for key := range t.values {
		if !slices.Contains(t.known, key) {
			unknown = append(unknown, key)
		}
	}
	if len(unknown) == 0 {
		return
	}
	slices.SortFunc(unknown, func(a, b string) int { return t.d.lines.of(t.sub(a)) - t.d.lines.of(t.sub(b)) })

	hint := "known here are " + strings.Join(slices.Sorted(slices.Values(t.known)), ", ")
	if meant := suggest.Closest(unknown[0], t.known, 2); meant != "" {
		hint = fmt.Sprintf("did you mean %q?", meant)
	}
	t.d.fail(t.sub(unknown[0]), "unknown key %q; %s", unknown[0], hint)
}
