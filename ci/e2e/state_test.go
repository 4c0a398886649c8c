package e2e

import (
	"regexp"
	"slices"
	"strings"

	"github.com/mkappliance/mkappliance/agent/state"
)

// temporary are files that a process was writing, or was killed at.
var temporary = regexp.MustCompile(`/\.[^/]+\.[0-9]+\.tmp$`)

// state: everything below /var belongs to an entry of the table by which a reset
// goes, and after a job what the table lists is there.
func (m *life) state() {
	found := m.strangers()
	for _, e := range state.Table() {
		for _, p := range e.Paths {
			switch missing := !slices.Contains(found, p); {
			case missing && e.Rare == "":
				m.Errorf("%s (%s) is in the table of agent/state, and not in /var", p, e.Content)
			case missing:
				m.Logf("%s is not in /var: it is there %s", p, e.Rare)
			}
		}
	}
}

// strangers: everything below /var belongs to an entry of that table. It returns the
// paths there, down to those of the table.
func (m *life) strangers() []string {
	table := state.Table()
	var prune []string
	for _, e := range table {
		for _, p := range e.Paths {
			prune = append(prune, "-path "+p)
		}
	}

	find := "find /var -xdev -mindepth 1 \\( " + strings.Join(prune, " -o ") + " \\) -prune -print -o -print"
	found := strings.Split(m.sh(find), "\n")
	for _, path := range found {
		if state.Find(table, path) == nil && !state.IsParent(table, path) && !temporary.MatchString(path) {
			m.Errorf("%s is in no entry of the table in agent/state", path)
		}
	}
	return found
}
