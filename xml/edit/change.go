package edit

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// SetAttr gives an attribute a value. One that is there keeps its place and its quotes; a new
// one comes last, in quotes like those of the others.
func (e *Element) SetAttr(name, value string) {
	if e == nil {
		return
	}
	e.check("attribute "+name, value)
	for i := range e.attrs {
		if a := &e.attrs[i]; a.name == name {
			if a.value != value {
				a.value, a.raw = value, escape(value, a.quote)
			}
			return
		}
	}
	quote := byte('\'') // as libvirt writes them
	if len(e.attrs) > 0 {
		quote = e.attrs[len(e.attrs)-1].quote
	}
	e.attrs = append(e.attrs, attr{" " + name + "=", name, quote, escape(value, quote), value})
}

// RemoveAttr removes an attribute, and the white space before it.
func (e *Element) RemoveAttr(name string) {
	if e != nil {
		e.attrs = slices.DeleteFunc(e.attrs, func(a attr) bool { return a.name == name })
	}
}

// SetText replaces all that is in e by a text. Nothing happens if that is its text already.
func (e *Element) SetText(text string) {
	if e == nil || e.Text() == text {
		return
	}
	e.check("<"+e.name+">", text)
	e.openUp()
	e.nodes = []node{&verbatim{escape(text, 0), text}}
}

// Remove removes e from its parent, with the line break and the indentation before it. The
// root cannot be removed.
func (e *Element) Remove() {
	if e == nil || e.parent == nil {
		return
	}
	nodes := e.parent.nodes
	i := index(nodes, e)
	e.parent.nodes = slices.Delete(nodes, i, i+1)
	if i > 0 {
		dropIndent(nodes[i-1])
	}
	e.parent = nil
}

// dropIndent cuts the white space at the end of a text, from its last line break on.
func dropIndent(n node) {
	v, ok := n.(*verbatim)
	if !ok || !isText(v) {
		return
	}
	if indent, ok := indentAtEnd(v.raw); ok {
		v.raw = v.raw[:len(v.raw)-len(indent)]
		v.text = strings.TrimSuffix(v.text, strings.ReplaceAll(indent, "\r\n", "\n"))
	}
}

// Append adds an element as the last child, on a line of its own if e's children have lines
// of their own, or if e has none and stands on such a line itself.
func (e *Element) Append(text string) (*Element, error) {
	if e == nil {
		return nil, fmt.Errorf("there is no element to add %s to", text)
	}
	indent := e.indentOfChildren()
	child, err := e.doc.fragment(strings.ReplaceAll(text, "\n", indent))
	if err != nil {
		return nil, err
	}
	child.parent = e
	e.openUp()
	at := len(e.nodes)
	if at > 0 && isIndent(e.nodes[at-1]) {
		at-- // before the indentation of the end tag
	}
	e.nodes = slices.Insert(e.nodes, at, node(&verbatim{indent, indent}), node(child))
	if at+2 == len(e.nodes) && indent != "" {
		own := e.indent()
		e.nodes = append(e.nodes, &verbatim{own, own})
	}
	return child, nil
}

// InsertBefore adds an element before e, which has a parent, on a line of its own if e has
// one.
func (e *Element) InsertBefore(text string) (*Element, error) {
	if e == nil || e.parent == nil {
		return nil, fmt.Errorf("there is no element to add %s before", text)
	}
	indent := e.indent()
	added, err := e.doc.fragment(strings.ReplaceAll(text, "\n", indent))
	if err != nil {
		return nil, err
	}
	added.parent = e.parent
	e.parent.nodes = slices.Insert(e.parent.nodes, index(e.parent.nodes, e), node(added), node(&verbatim{indent, indent}))
	return added, nil
}

// openUp turns <e/> into <e></e>.
func (e *Element) openUp() {
	if e.close == "" {
		e.tail = strings.TrimSuffix(e.tail, "/>") + ">"
		e.close = "</" + e.name + ">"
	}
}

// Empty turns <e></e> into <e/>. Nothing happens if more than white space is in it.
func (e *Element) Empty() {
	if e == nil || e.close == "" {
		return
	}
	for _, n := range e.nodes {
		if v, ok := n.(*verbatim); !ok || strings.Trim(v.raw, white) != "" {
			return
		}
	}
	e.nodes, e.close = nil, ""
	e.tail = strings.TrimSuffix(e.tail, ">") + "/>"
}

// indent is the line break and the white space before e, "" if it shares its line with what
// stands before.
func (e *Element) indent() string {
	nodes := e.doc.nodes
	if e.parent != nil {
		nodes = e.parent.nodes
	}
	i := index(nodes, e)
	if i == 0 {
		if e.parent == nil {
			return "\n"
		}
		return ""
	}
	if v, ok := nodes[i-1].(*verbatim); ok && isText(v) {
		indent, _ := indentAtEnd(v.raw)
		return indent
	}
	return ""
}

// indentOfChildren is the indent of e's last child, or what a child of e should have.
func (e *Element) indentOfChildren() string {
	if children := e.Elements(); len(children) > 0 {
		return children[len(children)-1].indent()
	}
	if own := e.indent(); own != "" && strings.Trim(e.Text(), white) == "" {
		return own + "  "
	}
	return ""
}

// indentAtEnd returns the last line break of a text and what follows it, if that is white
// space.
func indentAtEnd(text string) (indent string, ok bool) {
	at := strings.LastIndexByte(text, '\n')
	if at < 0 || strings.Trim(text[at:], white) != "" {
		return "", false
	}
	if at > 0 && text[at-1] == '\r' {
		at--
	}
	return text[at:], true
}

// isIndent says whether n is white space with a line break.
func isIndent(n node) bool {
	v, ok := n.(*verbatim)
	return ok && strings.Trim(v.raw, white) == "" && strings.Contains(v.raw, "\n")
}

// isText says whether v is text, and not a comment, a CDATA section or an instruction.
func isText(v *verbatim) bool { return !strings.HasPrefix(v.raw, "<") }

// check remembers the first value that XML cannot carry.
func (e *Element) check(what, value string) {
	if e.doc.err == nil && !Carries(value) {
		e.doc.err = fmt.Errorf("%s: %q has a character that XML cannot carry", what, value)
	}
}

// Carries says whether XML 1.0 can carry a text: section 2.2, production Char.
func Carries(text string) bool {
	if !utf8.ValidString(text) {
		return false
	}
	return !strings.ContainsFunc(text, func(r rune) bool {
		return r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF
	})
}

// escape writes a value for between two quotes, or a text if quote is 0. Line breaks and tabs
// in an attribute would be read as spaces (section 3.3.3).
func escape(value string, quote byte) string {
	var b strings.Builder
	for _, r := range value {
		switch {
		case r == '&':
			b.WriteString("&amp;")
		case r == '<':
			b.WriteString("&lt;")
		case r == '>':
			b.WriteString("&gt;")
		case r == '\'' && quote == '\'':
			b.WriteString("&apos;")
		case r == '"' && quote == '"':
			b.WriteString("&quot;")
		case r == '\r' || quote != 0 && (r == '\n' || r == '\t'):
			fmt.Fprintf(&b, "&#x%X;", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
