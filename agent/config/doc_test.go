package config

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestDocumentedKeys holds the tables of docs/config.env.md to settings: each
// key has one row, and its default is the one of the code.
func TestDocumentedKeys(t *testing.T) {
	page, err := os.ReadFile("../../docs/config.env.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{} // key -> default
	key := regexp.MustCompile("`([A-Z_]+)`")
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 {
			continue // not a row of three columns
		}
		for _, m := range key.FindAllStringSubmatch(cells[1], -1) {
			if _, twice := documented[m[1]]; twice {
				t.Errorf("two rows describe %s", m[1])
			}
			documented[m[1]] = strings.Trim(cells[3], " `")
		}
	}

	for _, s := range new(Config).settings() {
		initial, ok := documented[s.key]
		switch {
		case !ok:
			t.Errorf("no row describes %s", s.key)
		case s.initial != "" && initial != s.initial:
			t.Errorf("the default of %s is %s; its row says %s", s.key, s.initial, initial)
		}
		delete(documented, s.key)
	}
	for k := range documented {
		t.Errorf("there is no key %s", k)
	}
}

// TestInitialValues: the defaults are values that their own keys take.
func TestInitialValues(t *testing.T) {
	c := newConfig("config.env")
	for _, s := range c.settings() {
		if s.initial == "" {
			continue
		}
		if err := s.value.set(s.initial); err != nil {
			t.Errorf("%s %v", s.key, err)
		}
	}
}
