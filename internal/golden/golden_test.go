package golden

import "testing"

func TestMessages(t *testing.T) {
	m := NewMessages(t, "messages.golden")
	m.Check(t, "first", `cannot read "x": no such file`)
	m.Check(t, "second", "cannot write: full")
	if m.want["first"] != m.got["first"] || len(m.want) != 2 {
		t.Errorf("read %q", m.want)
	}
}
