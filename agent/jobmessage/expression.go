package jobmessage

import (
	"strconv"
	"strings"
)

// contexts are the values that expressions refer to, by lower-case names.
type contexts map[string]node

// member reads one context. Those that an image may depend on are kept.
func (c contexts) member(d *decoder, name string) error {
	name = strings.ToLower(name)
	levels := deepLevels
	switch name {
	case "matrix", "inputs", "vars", "env", "needs":
	case "github":
		levels = flatLevels
	default:
		return d.skip()
	}

	n, err := d.node(levels)
	if err != nil {
		return err
	}
	c[name] = n
	return nil
}

// scalar evaluates a template token.
func (c contexts) scalar(token node) (text string, known bool) {
	if expression, ok := token.members["expr"]; ok {
		return c.text(expression.text)
	}
	return token.literal()
}

// text evaluates an expression, of which it knows literals, properties and
// format(). The result of anything else is not known.
func (c contexts) text(expression string) (text string, known bool) {
	p := parser{contexts: c, rest: expression}
	text, known = p.value(0)
	p.space()
	if !known || p.rest != "" || len(text) > maxText {
		return "", false
	}
	return text, true
}

// maxNesting bounds format() in format().
const maxNesting = 8

// parser evaluates an expression from its beginning.
type parser struct {
	contexts contexts
	rest     string
}

func (p *parser) space() { p.rest = strings.TrimLeft(p.rest, " \t\r\n") }

// accept skips a token if it comes next.
func (p *parser) accept(token string) bool {
	p.space()
	rest, ok := strings.CutPrefix(p.rest, token)
	if ok {
		p.rest = rest
	}
	return ok
}

// value evaluates a literal, a property, or a call of format.
func (p *parser) value(nesting int) (text string, known bool) {
	p.space()
	if strings.HasPrefix(p.rest, "'") {
		return p.quoted()
	}
	name := strings.ToLower(p.name())
	switch {
	case name == "" || nesting > maxNesting:
		return "", false
	case p.accept("("):
		if name != "format" {
			return "", false
		}
		return p.format(nesting + 1)
	}

	n, ok := p.contexts[name]
	if !ok {
		return "", false
	}
	secret := name == "github"
	for {
		key, ok, more := p.property()
		if !more {
			break
		}
		if !ok || secret && strings.EqualFold(key, "token") {
			return "", false
		}
		n = n.property(key)
	}
	return n.literal()
}

// property reads ".NAME" or "['NAME']" or "[NUMBER]", if one comes next.
func (p *parser) property() (key string, ok, more bool) {
	switch {
	case p.accept("."):
		key = p.name()
		return key, key != "", true
	case p.accept("["):
		p.space()
		if strings.HasPrefix(p.rest, "'") {
			key, ok = p.quoted()
		} else {
			key = p.name()
			_, err := strconv.ParseUint(key, 10, 16)
			ok = err == nil
		}
		return key, p.accept("]") && ok, true
	}
	return "", false, false
}

// name reads a name, which may be empty.
func (p *parser) name() string {
	end := strings.IndexFunc(p.rest, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
	})
	if end < 0 {
		end = len(p.rest)
	}
	name := p.rest[:end]
	p.rest = p.rest[end:]
	return name
}

// quoted reads a string that begins here. Two quotes in it stand for one.
func (p *parser) quoted() (text string, ok bool) {
	var b strings.Builder
	p.rest = p.rest[1:]
	for {
		before, after, found := strings.Cut(p.rest, "'")
		if !found {
			return "", false
		}
		b.WriteString(before)
		p.rest = after
		if !strings.HasPrefix(p.rest, "'") {
			return b.String(), true
		}
		b.WriteByte('\'')
		p.rest = p.rest[1:]
	}
}

// format evaluates the arguments of format and the result, Format.cs.
func (p *parser) format(nesting int) (text string, known bool) {
	var args []string
	for {
		arg, known := p.value(nesting)
		if !known {
			return "", false
		}
		args = append(args, arg)
		if p.accept(")") {
			return format(args[0], args[1:])
		}
		if !p.accept(",") {
			return "", false
		}
	}
}

// format replaces {0}, {1} and so on; {{ and }} are braces.
func format(layout string, args []string) (text string, ok bool) {
	var b strings.Builder
	for b.Len() <= maxText {
		i := strings.IndexAny(layout, "{}")
		if i < 0 {
			b.WriteString(layout)
			return b.String(), b.Len() <= maxText
		}
		b.WriteString(layout[:i])
		brace, rest := layout[i], layout[i+1:]

		if strings.HasPrefix(rest, string(brace)) {
			b.WriteByte(brace)
			layout = rest[1:]
			continue
		}
		number, after, found := strings.Cut(rest, "}")
		n, err := strconv.ParseUint(number, 10, 8)
		if brace == '}' || !found || err != nil || n >= uint64(len(args)) {
			return "", false
		}
		b.WriteString(args[n])
		layout = after
	}
	return "", false
}

// property returns a member of a dictionary of a context, {"t":2,"d":[{"k":K,
// "v":V}]}, or an element of an array, {"t":1,"a":[..]}.
func (n node) property(key string) node {
	for _, entry := range n.members["d"].items {
		if k := entry.members["k"]; k.kind == scalar && strings.EqualFold(k.text, key) {
			return entry.members["v"]
		}
	}
	if i, err := strconv.ParseUint(key, 10, 16); err == nil && i < uint64(len(n.members["a"].items)) {
		return n.members["a"].items[i]
	}
	return node{}
}
