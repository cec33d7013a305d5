package inplace

import (
	"fmt"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/internal/bitset"
	"github.com/virtbackup/virtbackup/xml"
)

func numbers(set *bitset.Set) (text string) {
	for k := set.Next(0); k >= 0; k = set.Next(k + 1) {
		text += fmt.Sprint(k, " ")
	}
	return strings.TrimSpace(text)
}

// The parts of a range that are told to the marker are whole clusters.
func TestMarker(t *testing.T) {
	var set bitset.Set
	m := &marker{cluster: 4096, differs: &set}
	must(t, m.Write([]int64{0, 3 * 4096}, nil))
	must(t, m.Zero(5*4096, 4096+1))
	if got := numbers(&set); got != "0 3 5 6" {
		t.Errorf("got %s", got)
	}
}

func TestWithNewGeneration(t *testing.T) {
	const before, id, after = "<domain>\n  <genid>", "43dc0cf8-809b-4adb-9bea-a9abb5f3d90e", "</genid>\n  <metadata><x:a xmlns:x='y'><genid/></x:a></metadata>\n</domain>"
	doc, has, err := withNewGeneration(before + id + after)
	must(t, err)
	fresh := strings.TrimSuffix(strings.TrimPrefix(doc, before), after)
	if !has || len(fresh) != len(id) || fresh == id || fresh[14] != '4' {
		t.Errorf("%v: %s", has, doc)
	}
	if withoutGeneration(doc) != withoutGeneration(before+id+after) || withoutGeneration(doc) == withoutGeneration("<domain/>") {
		t.Error("documents are not compared without it")
	}
	if doc, has, err := withNewGeneration("<domain/>"); err != nil || has || doc != "<domain/>" {
		t.Errorf("%s, %v, %v", doc, has, err)
	}
}

// Files for the boot of a domain that others may use are those of its XML.
func TestBootPaths(t *testing.T) {
	boot, err := xml.ParseBoot("<domain><os><loader>/code.fd</loader><kernel>/k</kernel><initrd>/i</initrd><acpi><table type='slic'>/t</table></acpi></os></domain>")
	must(t, err)
	if got := strings.Join(bootPaths(boot), " "); got != "/k /i /t /code.fd" {
		t.Errorf("got %s", got)
	}
}
