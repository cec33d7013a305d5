package edit

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// tokens lists what a document says, without the white space between elements. The judge is
// encoding/xml.
func tokens(text string) (list []string, err error) {
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		token, _ := d.RawToken()
		switch token := token.(type) {
		case nil:
			return list, nil
		case xml.CharData:
			if s := strings.Trim(string(token), white); s != "" {
				list = append(list, "text "+s)
			}
		case xml.StartElement:
			list = append(list, fmt.Sprintf("start %v", token.Name))
			for _, a := range token.Attr {
				list = append(list, fmt.Sprintf("attr %v %s", a.Name, a.Value))
			}
		default:
			list = append(list, fmt.Sprintf("%T %s", token, token))
		}
	}
}

// all lists the elements of a document in the order of their start tags.
func all(e *Element) []*Element {
	list := []*Element{e}
	for _, child := range e.Elements() {
		list = append(list, all(child)...)
	}
	return list
}

// FuzzEdit: a document that is parsed is written as it was, and after a change it says what
// it said, except for the change.
func FuzzEdit(f *testing.F) {
	f.Add(odd, uint(4), "val\"'<&>\n")
	f.Add("<a/>", uint(0), "x")
	f.Add("<a b='&#x10FFFF;'>\r\n <c/>\r\n</a>", uint(1), "\t")
	f.Add("<a>x<b/>\n <c/>y</a>", uint(2), " ")
	f.Fuzz(func(t *testing.T, source string, which uint, value string) {
		doc, err := Parse(source)
		if err != nil {
			return
		}
		if got := text(t, doc); got != source {
			t.Fatalf("got %q, want %q", got, source)
		}
		if !Carries(value) {
			return
		}
		fuzzAttr(t, source, which, value)
		fuzzRemove(t, source, which)
		fuzzAppend(t, source, which, value)
	})
}

func chosen(t *testing.T, source string, which uint) (*Document, *Element) {
	doc := parse(t, source)
	list := all(doc.Root())
	return doc, list[which%uint(len(list))]
}

func fuzzAttr(t *testing.T, source string, which uint, value string) {
	doc, e := chosen(t, source, which)
	e.SetAttr("fuzz", value)
	got := text(t, doc)
	_, again := chosen(t, got, which)
	if again.Value("fuzz") != value {
		t.Fatalf("attribute %q became %q in %q", value, again.Value("fuzz"), got)
	}
	before, had := parsedElement(t, source, which).Attr("fuzz")
	if had {
		again.SetAttr("fuzz", before)
	} else {
		again.RemoveAttr("fuzz")
	}
	same(t, source, text(t, again.doc))
}

func parsedElement(t *testing.T, source string, which uint) *Element {
	_, e := chosen(t, source, which)
	return e
}

func fuzzRemove(t *testing.T, source string, which uint) {
	doc, e := chosen(t, source, which)
	inside, _ := tokens(e.String())
	e.Remove()
	want, _ := tokens(source)
	got, _ := tokens(text(t, doc))
	if e.Parent() == nil && doc.Root() == e {
		inside = nil // the root stays
	}
	joined := func(list []string) string { // texts that met are one now
		return strings.Join(strings.Fields(strings.ReplaceAll(strings.Join(list, " "), "text ", "")), "")
	}
	if len(joined(got))+len(joined(inside)) != len(joined(want)) {
		t.Fatalf("removed %q from %q: %q", inside, want, got)
	}
}

func fuzzAppend(t *testing.T, source string, which uint, value string) {
	doc, e := chosen(t, source, which)
	added, err := e.Append("<fuzz/>")
	if err != nil {
		t.Fatal(err)
	}
	added.SetText(value)
	got := text(t, doc)
	again := parse(t, got)
	if text(t, again) != got {
		t.Fatalf("%q is not stable", got)
	}
	if in := strings.Trim(value, white); added.Text() != in {
		t.Fatalf("text %q became %q", in, added.Text())
	}
	added.Remove()
	same(t, source, text(t, doc))
}

// same fails unless two documents say the same.
func same(t *testing.T, a, b string) {
	t.Helper()
	left, _ := tokens(a)
	right, _ := tokens(b)
	if !slices.Equal(left, right) {
		t.Fatalf("%q and %q:\n%q\n%q", a, b, left, right)
	}
}
