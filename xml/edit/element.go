package edit

import (
	"encoding/xml"
	"fmt"
	"strings"
)

// white is XML's white space (production S).
const white = " \t\r\n"

// Element is an element of a document. Its methods may be called on nil, which is an element
// that is not there: it has no attributes, no text and no children, and changes do nothing.
type Element struct {
	doc    *Document
	parent *Element // nil for the root
	name   string
	attrs  []attr
	tail   string // what ends the start tag: ">" or "/>", with the white space before it
	nodes  []node
	close  string // "" after "/>"
}

// attr is an attribute of a start tag.
type attr struct {
	before string // from the end of what stands before to the opening quote, with the name
	name   string
	quote  byte
	raw    string // as it is written
	value  string // what it says
}

// newElement takes a start tag apart that encoding/xml has accepted.
func newElement(raw string, token xml.StartElement) (*Element, error) {
	e := &Element{name: written(token.Name)}
	rest := raw[1+len(e.name):]
	for _, a := range token.Attr {
		at := strings.IndexAny(rest, `"'`)
		if at < 0 {
			return nil, fmt.Errorf("<%s>: attribute %s has no quotes", e.name, written(a.Name))
		}
		end := strings.IndexByte(rest[at+1:], rest[at])
		if end < 0 {
			return nil, fmt.Errorf("<%s>: attribute %s has no closing quote", e.name, written(a.Name))
		}
		if _, twice := e.Attr(written(a.Name)); twice {
			return nil, fmt.Errorf("<%s>: attribute %s is there twice", e.name, written(a.Name))
		}
		if !strings.ContainsAny(rest[:1], white) {
			return nil, fmt.Errorf("<%s>: no space before attribute %s", e.name, written(a.Name))
		}
		e.attrs = append(e.attrs, attr{rest[:at], written(a.Name), rest[at], rest[at+1:][:end], a.Value})
		rest = rest[at+end+2:]
	}
	e.tail = rest
	return e, nil
}

func (e *Element) write(b *strings.Builder) {
	b.WriteString("<" + e.name)
	for _, a := range e.attrs {
		b.WriteString(a.before)
		b.WriteByte(a.quote)
		b.WriteString(a.raw)
		b.WriteByte(a.quote)
	}
	b.WriteString(e.tail)
	for _, n := range e.nodes {
		n.write(b)
	}
	b.WriteString(e.close)
}

// adopt makes e and all below it part of d.
func (e *Element) adopt(d *Document) {
	e.doc = d
	for _, n := range e.nodes {
		if child, ok := n.(*Element); ok {
			child.adopt(d)
		}
	}
}

// Name returns the element's name as it is written, "" for nil.
func (e *Element) Name() string {
	if e == nil {
		return ""
	}
	return e.name
}

// Parent returns the element around e, nil for the root and for nil.
func (e *Element) Parent() *Element {
	if e == nil {
		return nil
	}
	return e.parent
}

// Elements returns all elements directly below e, in their order.
func (e *Element) Elements() (found []*Element) {
	if e == nil {
		return nil
	}
	for _, n := range e.nodes {
		if child, ok := n.(*Element); ok {
			found = append(found, child)
		}
	}
	return found
}

// Children returns all elements at a path of names below e, in their order: "devices/disk".
func (e *Element) Children(path string) (found []*Element) {
	name, rest, deeper := strings.Cut(path, "/")
	for _, child := range e.Elements() {
		switch {
		case child.name != name:
		case deeper:
			found = append(found, child.Children(rest)...)
		default:
			found = append(found, child)
		}
	}
	return found
}

// Child returns the first of the Children, or nil.
func (e *Element) Child(path string) *Element {
	if found := e.Children(path); len(found) > 0 {
		return found[0]
	}
	return nil
}

// Attr returns what an attribute says, and whether it is there.
func (e *Element) Attr(name string) (value string, ok bool) {
	if e == nil {
		return "", false
	}
	for _, a := range e.attrs {
		if a.name == name {
			return a.value, true
		}
	}
	return "", false
}

// Value returns what an attribute says, "" if it is not there.
func (e *Element) Value(name string) string {
	value, _ := e.Attr(name)
	return value
}

// AttrNames returns the names of all attributes, in their order.
func (e *Element) AttrNames() (names []string) {
	if e == nil {
		return nil
	}
	for _, a := range e.attrs {
		names = append(names, a.name)
	}
	return names
}

// Text returns the text directly in e, that of CDATA sections included, without the white
// space around it.
func (e *Element) Text() string {
	if e == nil {
		return ""
	}
	var b strings.Builder
	for _, n := range e.nodes {
		if v, ok := n.(*verbatim); ok {
			b.WriteString(v.text)
		}
	}
	return strings.Trim(b.String(), white)
}

// String returns the element as it is written, with all that is in it.
func (e *Element) String() string {
	if e == nil {
		return ""
	}
	var b strings.Builder
	e.write(&b)
	return b.String()
}
