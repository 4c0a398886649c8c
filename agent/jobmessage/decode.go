package jobmessage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Bounds of what is kept of a message while it is read.
const (
	maxDepth = 128  // of the whole message; one that is nested deeper is an error
	maxNodes = 4096 // of each value; what comes after those is skipped
	maxText  = 1024 // of each string, in bytes; a longer one counts as unknown
)

// Levels of objects and arrays that are kept, which leave out what no image
// name depends on, such as the event in the context github.
const (
	tokenLevels = 12
	stepLevels  = 2 // step, reference
	flatLevels  = 3 // dictionary, its entries, an entry
	deepLevels  = 12
)

// node is a JSON value, as far as it was kept.
type node struct {
	kind    kind
	text    string          // of a scalar, as a workflow would write it
	members map[string]node // of an object, by lower-case names
	items   []node          // of an array
}

type kind byte

const (
	unknown kind = iota // left out: too long, too deep, too many
	scalar
	null
	object
	array
)

// pair is an entry of a mapping.
type pair struct {
	key   string
	value node
}

// pairs returns the entries of a mapping token: {"type":2,"map":[{"Key":K,
// "Value":V}]}.
func (n node) pairs() []pair {
	var pairs []pair
	for _, entry := range n.members["map"].items {
		key, _ := entry.members["key"].literal()
		pairs = append(pairs, pair{key: key, value: entry.members["value"]})
	}
	return pairs
}

// literal returns the text of a scalar, which may be spelled with its place in
// a file: {"type":0,"file":1,"line":2,"col":3,"lit":"TEXT"}. Expressions and
// what was left out are not known.
func (n node) literal() (text string, known bool) {
	switch n.kind {
	case scalar, null:
		return n.text, true
	case object:
		for _, name := range []string{"lit", "num", "bool", "s", "n", "b"} {
			if value, ok := n.members[name]; ok {
				return value.literal()
			}
		}
	}
	return "", false
}

// decoder reads JSON token by token, so that a message of any size is held in
// small parts only.
type decoder struct {
	json  *json.Decoder
	depth int
	nodes int // that the current value may still have
}

func newDecoder(r io.Reader) *decoder {
	d := &decoder{json: json.NewDecoder(r)}
	d.json.UseNumber()
	return d
}

// next reads a token. It keeps account of depth.
func (d *decoder) next() (json.Token, error) {
	token, err := d.json.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('{'), json.Delim('['):
		d.depth++
	case json.Delim('}'), json.Delim(']'):
		d.depth--
	}
	if d.depth > maxDepth {
		return nil, fmt.Errorf("it is nested deeper than %d levels", maxDepth)
	}
	return token, nil
}

// members reads an object. read must read the member's value. Any other value
// is skipped.
func (d *decoder) members(read func(d *decoder, name string) error) error {
	token, err := d.next()
	if err != nil || token != json.Delim('{') {
		return errors.Join(err, d.finish(token))
	}
	for d.json.More() {
		name, err := d.next()
		if err != nil {
			return err
		}
		// The decoder accepts strings only here.
		if err := read(d, name.(string)); err != nil {
			return err
		}
	}
	_, err = d.next()
	return err
}

// elements reads an array. read must read one element. Any other value is
// skipped.
func (d *decoder) elements(read func(d *decoder) error) error {
	token, err := d.next()
	if err != nil || token != json.Delim('[') {
		return errors.Join(err, d.finish(token))
	}
	for d.json.More() {
		if err := read(d); err != nil {
			return err
		}
	}
	_, err = d.next()
	return err
}

// skip reads a value and keeps nothing.
func (d *decoder) skip() error {
	token, err := d.next()
	if err != nil {
		return err
	}
	return d.finish(token)
}

// finish reads the rest of a value that begins with token.
func (d *decoder) finish(token json.Token) error {
	if _, ok := token.(json.Delim); !ok {
		return nil
	}
	for outer := d.depth - 1; d.depth > outer; {
		if _, err := d.next(); err != nil {
			return err
		}
	}
	return nil
}

// node reads a value and keeps so many levels of it.
func (d *decoder) node(levels int) (node, error) {
	d.nodes = maxNodes
	return d.keep(levels)
}

func (d *decoder) keep(levels int) (node, error) {
	if d.nodes == 0 {
		return node{}, d.skip()
	}
	d.nodes--
	token, err := d.next()
	if err != nil {
		return node{}, err
	}

	switch value := token.(type) {
	case json.Delim:
		if levels == 0 {
			return node{}, d.finish(token)
		}
		if value == '{' {
			return d.keepObject(levels - 1)
		}
		return d.keepArray(levels - 1)
	case string:
		return textNode(value), nil
	case json.Number:
		return numberNode(value), nil
	case bool:
		return textNode(fmt.Sprint(value)), nil
	}
	return node{kind: null}, nil
}

func (d *decoder) keepObject(levels int) (node, error) {
	n := node{kind: object, members: map[string]node{}}
	for d.json.More() {
		name, err := d.next()
		if err != nil {
			return node{}, err
		}
		value, err := d.keep(levels)
		if err != nil {
			return node{}, err
		}
		if key := name.(string); value.kind != unknown && len(key) <= maxText {
			n.members[strings.ToLower(key)] = value
		}
	}
	_, err := d.next()
	return n, err
}

func (d *decoder) keepArray(levels int) (node, error) {
	n := node{kind: array}
	for d.json.More() {
		value, err := d.keep(levels)
		if err != nil {
			return node{}, err
		}
		// One that was left out stays, so that the others keep their places.
		if d.nodes > 0 {
			n.items = append(n.items, value)
		}
	}
	_, err := d.next()
	return n, err
}

func textNode(s string) node {
	if len(s) > maxText {
		return node{}
	}
	return node{kind: scalar, text: strings.Clone(s)}
}

// maxDigits is the precision that expressions print numbers with.
const maxDigits = 15

// numberNode returns a number as an expression prints it, if that is how the
// message spells it.
func numberNode(n json.Number) node {
	if len(n) > maxDigits || strings.ContainsAny(string(n), "eE") {
		return node{}
	}
	text := string(n)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return node{kind: scalar, text: text}
}
