package edit

import (
	"strings"
	"testing"
)

const odd = `<?xml version="1.0"?>
<!-- before -->
<domain type='kvm'
        id = "3" xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>vm&amp;1</name><uuid/>
  <!-- a <disk> that is none -->
  <metadata><m:app xmlns:m="urn:m" note='a"b'><![CDATA[ <name> ]]></m:app></metadata>
  <devices>
    <disk type='file' >
      <source file="/a'b.qcow2"/>
      <target dev='vda'/>
    </disk>
    <disk type='block'><source dev='/dev/sda'/><target dev='vdb'/></disk>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-x&#10;y'/>
  </qemu:commandline>
</domain>
<!-- after -->
`

func parse(t *testing.T, text string) *Document {
	t.Helper()
	doc, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func text(t *testing.T, doc *Document) string {
	t.Helper()
	got, err := doc.Text()
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestUnchanged(t *testing.T) {
	for _, doc := range []string{odd, strings.ReplaceAll(odd, "\n", "\r\n"), "<a/>", "<a></a>", "\n<a \t b = 'c'\n/> <?pi?>"} {
		if got := text(t, parse(t, doc)); got != doc {
			t.Errorf("got %q, want %q", got, doc)
		}
	}
}

func TestRead(t *testing.T) {
	root := parse(t, odd).Root()
	for what, got := range map[string]string{
		"3":                        root.Value("id"),
		"vm&1":                     root.Child("name").Text(),
		"<name>":                   root.Child("metadata/m:app").Text(),
		`a"b`:                      root.Child("metadata/m:app").Value("note"),
		"/a'b.qcow2":               root.Child("devices/disk/source").Value("file"),
		"/dev/sda":                 root.Children("devices/disk")[1].Child("source").Value("dev"),
		"-x\ny":                    root.Child("qemu:commandline/qemu:arg").Value("value"),
		"devices":                  root.Child("devices/disk").Parent().Name(),
		"<uuid/>":                  root.Child("uuid").String(),
		"":                         root.Child("devices/none/none").Value("x"),
		"name uuid":                root.Elements()[0].Name() + " " + root.Elements()[1].Name(),
		"<source dev='/dev/sda'/>": root.Children("devices/disk/source")[1].String(),
	} {
		if got != what {
			t.Errorf("got %q, want %q", got, what)
		}
	}
	if root.Child("name/x") != nil || root.Parent() != nil || len(root.Children("devices/disk/target")) != 2 {
		t.Error("elements that are not there")
	}
}

// Each change is made to the document alone: old is replaced by new, and nothing else.
func TestChanges(t *testing.T) {
	for _, test := range []struct {
		name     string
		change   func(root *Element)
		old, new string
	}{
		{"attribute", func(r *Element) { r.SetAttr("type", "a'b&<") }, "type='kvm'", "type='a&apos;b&amp;&lt;'"},
		{"attribute in double quotes", func(r *Element) { r.SetAttr("id", "\"'\t") }, `"3"`, `"&quot;'&#x9;"`},
		{"same attribute", func(r *Element) { r.Child("qemu:commandline/qemu:arg").SetAttr("value", "-x\ny") }, "", ""},
		{"new attribute", func(r *Element) { r.Child("devices/disk").SetAttr("device", "disk") }, "<disk type='file' >", "<disk type='file' device='disk' >"},
		{"new attribute, double quotes", func(r *Element) { r.Child("devices/disk/source").SetAttr("index", "1") }, `qcow2"/>`, `qcow2" index="1"/>`},
		{"first attribute", func(r *Element) { r.Child("uuid").SetAttr("a", "b") }, "<uuid/>", "<uuid a='b'/>"},
		{"no attribute", func(r *Element) { r.RemoveAttr("id") }, "\n        id = \"3\"", ""},
		{"text", func(r *Element) { r.Child("name").SetText("<é>") }, "vm&amp;1", "&lt;é&gt;"},
		{"same text", func(r *Element) { r.Child("name").SetText("vm&1") }, "", ""},
		{"text of an empty element", func(r *Element) { r.Child("uuid").SetText("1") }, "<uuid/>", "<uuid>1</uuid>"},
		{"text of CDATA", func(r *Element) { r.Child("metadata/m:app").SetText("1") }, "<![CDATA[ <name> ]]>", "1"},
		{"element on its line", func(r *Element) { r.Child("devices/disk/source").Remove() }, "\n      <source file=\"/a'b.qcow2\"/>", ""},
		{"element within a line", func(r *Element) { r.Child("uuid").Remove() }, "<uuid/>", ""},
		{"last element", func(r *Element) { r.Child("qemu:commandline/qemu:arg").Remove() }, "\n    <qemu:arg value='-x&#10;y'/>", ""},
		{"root", func(r *Element) { r.Remove() }, "", ""},
		{"empty", func(r *Element) { c := r.Child("qemu:commandline"); c.Child("qemu:arg").Remove(); c.Empty() }, "<qemu:commandline>\n    <qemu:arg value='-x&#10;y'/>\n  </qemu:commandline>", "<qemu:commandline/>"},
		{"empty what is not", func(r *Element) {
			r.Child("name").Empty()
			r.Child("devices").Empty()
			r.Child("uuid").Empty()
			r.Child("metadata/m:app").Empty()
		}, "", ""},
		{"nothing", func(r *Element) {
			none := r.Child("none")
			none.Remove()
			none.SetAttr("a", "b")
			none.SetText("c")
			none.RemoveAttr("d")
		}, "", ""},
		{"append", func(r *Element) { add(r.Child("devices/disk"), "<x>\n  <y/>\n</x>") }, "'vda'/>\n", "'vda'/>\n      <x>\n        <y/>\n      </x>\n"},
		{"append within a line", func(r *Element) { add(r.Children("devices/disk")[1], "<x/>") }, "'vdb'/>", "'vdb'/><x/>"},
		{"append to an empty element", func(r *Element) { add(r.Child("devices/disk/target"), "<x/>") }, "'vda'/>", "'vda'>\n        <x/>\n      </target>"},
		{"append twice", func(r *Element) { add(add(r.Child("devices/disk/target"), "<x/>").Parent(), "<y/>") }, "'vda'/>", "'vda'>\n        <x/>\n        <y/>\n      </target>"},
		{"append within an empty element", func(r *Element) { add(r.Child("uuid"), "<x/>") }, "<uuid/>", "<uuid><x/></uuid>"},
		{"before", func(r *Element) { _, _ = r.Child("devices/disk/target").InsertBefore("<x/>") }, "      <target dev='vda'", "      <x/>\n      <target dev='vda'"},
		{"before within a line", func(r *Element) { _, _ = r.Child("uuid").InsertBefore("<x/>") }, "<uuid/>", "<x/><uuid/>"},
		{"change what was added", func(r *Element) { add(r.Child("devices/disk"), "<x/>").SetAttr("a", "1") }, "'vda'/>\n", "'vda'/>\n      <x a='1'/>\n"},
		{"remove what was added", func(r *Element) { add(r.Child("devices/disk"), "<x/>").Remove() }, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, eol := range []string{"\n", "\r\n"} {
				with := func(s string) string { return strings.ReplaceAll(s, "\n", eol) }
				doc := parse(t, with(odd))
				test.change(doc.Root())
				want := with(odd)
				if test.old != test.new {
					want = strings.Replace(want, with(test.old), with(test.new), 1)
					if want == with(odd) {
						t.Fatal("the test replaces nothing")
					}
				}
				if got := text(t, doc); got != want {
					t.Errorf("got\n%s\nwant\n%s", got, want)
				}
			}
		})
	}
}

func add(to *Element, text string) *Element {
	e, err := to.Append(text)
	if err != nil {
		panic(err)
	}
	return e
}

func TestNotXML(t *testing.T) {
	for _, doc := range []string{"", " ", "x", "<a>", "</a>", "<a></b>", "<a/><b/>", "<a/>x", "<a b='1' b='2'/>", "<a b=1/>",
		"<a b='1'c='2'/>", "<a>&none;</a>", "<a>\x01</a>", "<a>\xff</a>", "<a><b></a></b>", "<a b='<'/>", "<a/><![CDATA[x]]>",
		"<?xml version='1.0' encoding='ISO-8859-1'?><a/>"} {
		if got, err := Parse(doc); err == nil {
			t.Errorf("%q was parsed as %q", doc, got.Root())
		}
	}
}

func TestValuesThatXMLCannotCarry(t *testing.T) {
	for _, value := range []string{"\x00", "\x1f", "\xff", "\ufffe"} {
		for _, change := range []func(*Element){func(e *Element) { e.SetAttr("a", value) }, func(e *Element) { e.SetText(value) }} {
			doc := parse(t, "<a/>")
			change(doc.Root())
			if got, err := doc.Text(); err == nil {
				t.Errorf("%q became %q", value, got)
			}
		}
	}
	if _, err := parse(t, "<a/>").Root().Append("<b>"); err == nil {
		t.Error("a fragment that is not closed was added")
	}
	if _, err := parse(t, "<a/>").Root().InsertBefore("<b/>"); err == nil {
		t.Error("an element was added before the root")
	}
}
