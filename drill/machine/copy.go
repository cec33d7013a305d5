package machine

import (
	"encoding/xml"
	"regexp"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/xml/edit"
)

// harmless is the form of all values and texts that are taken over. It has no slash: no path gets
// through, whatever libvirt may make of an attribute.
var harmless = regexp.MustCompile(`^[A-Za-z0-9 _.,:+=()-]{1,200}$`)

// document is XML that is being written.
type document struct {
	b     strings.Builder
	depth int
}

// open writes the start of an element with what is between its brackets, close its end.
func (d *document) open(name, attrs string) {
	d.line("<" + name + attrs + ">")
	d.depth++
}

func (d *document) close(name string) {
	d.depth--
	d.line("</" + name + ">")
}

func (d *document) line(text string) {
	d.b.WriteString(strings.Repeat("  ", d.depth))
	d.b.WriteString(text)
	d.b.WriteByte('\n')
}

// element writes an element with a text, which may be anything that XML can carry.
func (d *document) element(name, attrs, text string) {
	d.line("<" + name + attrs + ">" + escape(text) + "</" + name + ">")
}

// take copies what a list has of an element; nil is nothing.
func (d *document) take(e *edit.Element, list element) {
	if e == nil {
		return
	}
	attrs := ""
	for _, name := range list.attrs {
		if value, ok := e.Attr(name); ok && harmless.MatchString(value) {
			attrs += attr(name, value)
		}
	}
	if list.text {
		if text := e.Text(); harmless.MatchString(text) {
			d.element(e.Name(), attrs, text)
		}
		return
	}
	if !slices.ContainsFunc(e.Elements(), func(child *edit.Element) bool { _, ok := list.children[child.Name()]; return ok }) {
		d.line("<" + e.Name() + attrs + "/>")
		return
	}
	d.open(e.Name(), attrs)
	d.takeChildren(e, list.children)
	d.close(e.Name())
}

// takeChildren copies what lists have of the elements in e.
func (d *document) takeChildren(e *edit.Element, lists map[string]element) {
	for _, child := range e.Elements() {
		if list, ok := lists[child.Name()]; ok {
			d.take(child, list)
		}
	}
}

// attr is an attribute as it is written, with a space before it.
func attr(name, value string) string { return " " + name + "='" + escape(value) + "'" }

func escape(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a Builder does not fail
	return b.String()
}
