package hook

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// node is a value of the payload. Its methods read it as one type; the first
// of them that cannot is kept in first, with the path of its value.
type node struct {
	path  string
	raw   json.RawMessage // nil if absent
	first *error
}

// object is a node read as a JSON object.
type object struct {
	node
	members map[string]json.RawMessage
}

func (n node) fail(what string) {
	if *n.first != nil {
		return
	}
	name := n.path
	if name == "" {
		name = "standard input"
	}
	*n.first = fmt.Errorf("%s: %s", name, what)
}

// get returns a member that must be there.
func (o object) get(name string) node {
	n := node{path: strings.TrimPrefix(o.path+"."+name, "."), raw: o.members[name], first: o.first}
	if n.raw == nil && *o.first == nil {
		n.fail("is missing; want what the actions runner 2.336 sends")
	}
	return n
}

// optional returns a member whose raw is nil if it is absent or null. All
// methods read such a node as their type's zero value.
func (o object) optional(name string) node {
	n := node{path: strings.TrimPrefix(o.path+"."+name, "."), raw: o.members[name], first: o.first}
	if kind(n.raw) == "null" {
		n.raw = nil
	}
	return n
}

func (n node) object() object {
	o := object{node: n}
	n.read("an object", &o.members)
	return o
}

func (n node) text() (s string) {
	n.read("a string", &s)
	if strings.ContainsRune(s, 0) {
		n.fail("holds a NUL character; want none")
	}
	return s
}

func (n node) boolean() (b bool) {
	n.read("a boolean", &b)
	return b
}

func (n node) list() []node {
	var raws []json.RawMessage
	n.read("a list", &raws)
	nodes := make([]node, len(raws))
	for i, raw := range raws {
		nodes[i] = node{path: fmt.Sprintf("%s[%d]", n.path, i), raw: raw, first: n.first}
	}
	return nodes
}

func (n node) texts() []string {
	var texts []string
	for _, e := range n.list() {
		texts = append(texts, e.text())
	}
	return texts
}

// textOrTexts reads a list, or the single string of older runners.
func (n node) textOrTexts() []string {
	if kind(n.raw) == "a string" {
		return []string{n.text()}
	}
	return n.texts()
}

// env reads names and values of environment variables, environ(7).
func (n node) env() map[string]string {
	o := n.object()
	env := make(map[string]string, len(o.members))
	for _, name := range slices.Sorted(maps.Keys(o.members)) {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			n.fail(fmt.Sprintf("%.40q is not the name of a variable; want one without '='", name))
		}
		env[name] = o.get(name).text()
	}
	return env
}

// read decodes a value of the kind that want names into to, a pointer.
func (n node) read(want string, to any) {
	if n.raw == nil {
		return
	}
	if got := kind(n.raw); got != want {
		n.fail(fmt.Sprintf("is %s; want %s", got, want))
		return
	}
	if err := json.Unmarshal(n.raw, to); err != nil {
		n.fail("cannot be decoded; want " + want)
	}
}

// kind names the type of a JSON value by its first character, RFC 8259.
func kind(raw json.RawMessage) string {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	if len(raw) == 0 {
		return ""
	}
	switch raw[0] {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}
