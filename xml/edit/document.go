package edit

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Document is an XML document. It is not safe for concurrent use.
type Document struct {
	nodes []node // the root, and what stands before and after it
	root  *Element
	err   error // the first value that XML cannot carry
}

// node is a part of a document: an *Element, or everything else, as it is written.
type node interface{ write(*strings.Builder) }

// verbatim is white space, text, a comment, a CDATA section, or a processing instruction.
type verbatim struct {
	raw  string
	text string // what it says, if it is text or CDATA
}

func (v *verbatim) write(b *strings.Builder) { b.WriteString(v.raw) }

// Parse reads a document in UTF-8. What encoding/xml does not accept, and what libxml2 does
// not accept although encoding/xml does, is an error.
func Parse(text string) (*Document, error) {
	p := parser{source: text, decoder: xml.NewDecoder(strings.NewReader(text)), doc: &Document{}}
	for {
		err := p.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("parse XML: %w", err)
		}
	}
	switch {
	case len(p.open) > 0:
		return nil, fmt.Errorf("parse XML: <%s> is not closed", p.open[len(p.open)-1].name)
	case p.doc.root == nil:
		return nil, errors.New("parse XML: there is no element")
	}
	return p.doc, nil
}

// Root returns the outermost element.
func (d *Document) Root() *Element { return d.root }

// Text returns the document. It fails if a value was set that XML cannot carry (section 2.2,
// production Char).
func (d *Document) Text() (string, error) {
	if d.err != nil {
		return "", d.err
	}
	var b strings.Builder
	for _, n := range d.nodes {
		n.write(&b)
	}
	return b.String(), nil
}

// parser builds a document from the tokens of encoding/xml, each with the bytes that it was
// read from.
type parser struct {
	source  string
	decoder *xml.Decoder
	doc     *Document
	open    []*Element // from the root to the innermost
}

func (p *parser) next() error {
	from := p.decoder.InputOffset()
	token, err := p.decoder.RawToken()
	if err != nil {
		return err
	}
	raw := p.source[from:p.decoder.InputOffset()]
	switch token := token.(type) {
	case xml.StartElement:
		return p.start(raw, token)
	case xml.EndElement:
		return p.end(raw, written(token.Name))
	case xml.CharData:
		return p.text(raw, string(token))
	default:
		p.add(&verbatim{raw: raw})
	}
	return nil
}

func (p *parser) start(raw string, token xml.StartElement) error {
	e, err := newElement(raw, token)
	if err != nil {
		return err
	}
	e.doc = p.doc
	if len(p.open) == 0 {
		if p.doc.root != nil {
			return fmt.Errorf("<%s> stands after the outermost element", e.name)
		}
		p.doc.root = e
	} else {
		e.parent = p.open[len(p.open)-1]
	}
	p.add(e)
	p.open = append(p.open, e)
	return nil
}

// end closes an element. Of <a/>, encoding/xml returns an end that has no bytes.
func (p *parser) end(raw, name string) error {
	if len(p.open) == 0 {
		return fmt.Errorf("</%s> closes nothing", name)
	}
	e := p.open[len(p.open)-1]
	if e.name != name {
		return fmt.Errorf("<%s> is closed by </%s>", e.name, name)
	}
	e.close = raw
	p.open = p.open[:len(p.open)-1]
	return nil
}

func (p *parser) text(raw, text string) error {
	if len(p.open) == 0 && strings.Trim(raw, white) != "" {
		return errors.New("text stands outside of the outermost element")
	}
	p.add(&verbatim{raw, text})
	return nil
}

func (p *parser) add(n node) {
	if len(p.open) == 0 {
		p.doc.nodes = append(p.doc.nodes, n)
		return
	}
	parent := p.open[len(p.open)-1]
	parent.nodes = append(parent.nodes, n)
}

// written is a name as it is written.
func written(n xml.Name) string {
	if n.Space == "" {
		return n.Local
	}
	return n.Space + ":" + n.Local
}

// fragment parses one element that is to become part of d.
func (d *Document) fragment(text string) (*Element, error) {
	part, err := Parse(text)
	if err != nil {
		return nil, err
	}
	part.root.adopt(d)
	return part.root, nil
}

// index finds n among nodes.
func index(nodes []node, n node) int {
	return slices.IndexFunc(nodes, func(other node) bool { return other == n })
}
