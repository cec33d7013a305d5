package adapt

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"

	"github.com/virtbackup/virtbackup/xml"
)

// deterministic is a source of random numbers that are the same each time.
type deterministic struct{ *rand.ChaCha8 }

func newRandom() deterministic { return deterministic{rand.NewChaCha8([32]byte{1})} }

// leftOut are disks that a point of the domain does not have.
var leftOut = map[string]string{"pools": "vdc"}

// requestFor is a restore of all disks of a domain to /restored. Nothing below /srv is on
// this host.
func requestFor(t *testing.T, name, doc string) Request {
	t.Helper()
	domain, err := xml.ParseDomain(doc)
	if err != nil {
		t.Fatal(err)
	}
	r := Request{Dir: "/restored", Random: newRandom(), Exists: func(path string) bool { return !strings.HasPrefix(path, "/srv") }}
	for _, d := range domain.Disks {
		if d.Unfit() == "" && leftOut[name] != d.Target {
			r.Disks = append(r.Disks, Disk{Target: d.Target, Image: fmt.Sprintf("/restored/%s.%s", d.Target, d.Format), Format: d.Format})
		}
	}
	switch name {
	case "windows11":
		r.NVRAM, r.TPM = File{Path: "/restored/win11_VARS.fd", Format: "raw"}, true
	case "microvm":
		r.Files = map[string]string{"/srv/lambda/vmlinuz": "/restored/vmlinuz", "/srv/lambda/initrd.gz": "/restored/initrd.gz"}
	}
	return r
}

// domains calls f with each domain of testdata, as itself and under a new name.
func domains(t *testing.T, f func(t *testing.T, name, doc string, request Request)) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.xml")
	if err != nil || len(files) < 20 {
		t.Fatal(len(files), err)
	}
	for _, file := range files {
		doc, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".xml")
		for _, newName := range []string{"", "copy"} {
			t.Run(name+"/"+newName, func(t *testing.T) {
				request := requestFor(t, name, string(doc))
				request.Name = newName
				f(t, name, string(doc), request)
			})
		}
	}
}

// What is changed in each domain, line by line, and what a person is told. All other lines
// stay byte for byte.
func TestGolden(t *testing.T) {
	domains(t, func(t *testing.T, name, doc string, request Request) {
		result, err := Domain(doc, request)
		if err != nil {
			t.Fatal(err)
		}
		got := difference(doc, result.XML) + "\n"
		for _, note := range result.Notes {
			got += "note: " + note + "\n"
		}
		file := filepath.Join("testdata", name+".same.golden")
		if request.Name != "" {
			file = filepath.Join("testdata", name+".copy.golden")
		}
		if os.Getenv("VIRTBACKUP_UPDATE") != "" {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s (VIRTBACKUP_UPDATE=1 writes it): %s", file, difference(string(want), got))
		}
	})
}

// difference lists the lines of a that are not in b, and of b that are not in a, in their
// order: a longest common subsequence.
func difference(a, b string) string {
	from, to := strings.SplitAfter(a, "\n"), strings.SplitAfter(b, "\n")
	common := make([][]int, len(from)+1)
	for i := range common {
		common[i] = make([]int, len(to)+1)
	}
	for i := len(from) - 1; i >= 0; i-- {
		for j := len(to) - 1; j >= 0; j-- {
			if from[i] == to[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out strings.Builder
	for i, j := 0, 0; i < len(from) || j < len(to); {
		switch {
		case i < len(from) && j < len(to) && from[i] == to[j]:
			i, j = i+1, j+1
		case j == len(to) || i < len(from) && common[i+1][j] >= common[i][j+1]:
			out.WriteString("-" + from[i])
			i++
		default:
			out.WriteString("+" + to[j])
			j++
		}
	}
	return out.String()
}

// libvirtxml reads what was made, and finds the disks that were asked for, and nothing of
// the original that a copy must not have.
func TestReadByLibvirtxml(t *testing.T) {
	domains(t, func(t *testing.T, name, doc string, request Request) {
		result, err := Domain(doc, request)
		if err != nil {
			t.Fatal(err)
		}
		var before, after libvirtxml.Domain
		for text, into := range map[string]*libvirtxml.Domain{doc: &before, result.XML: &after} {
			if err := into.Unmarshal(text); err != nil {
				t.Fatal(err)
			}
		}
		if after.Name != result.Name || after.UUID != result.UUID || after.ID != nil {
			t.Errorf("name %s, UUID %s, id %v", after.Name, after.UUID, after.ID)
		}
		if renamed := request.Name != ""; renamed != (before.UUID != after.UUID) || renamed && after.Name != request.Name {
			t.Errorf("%s %s became %s %s", before.Name, before.UUID, after.Name, after.UUID)
		}
		domain, err := xml.ParseDomain(result.XML)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range request.Disks {
			got, ok := domain.Disk(want.Target)
			if !ok || got.SourceType != "file" || got.Source != want.Image || got.Format != want.Format || got.Backing != nil || got.Encrypted || got.Index != 0 {
				t.Errorf("disk %s: %+v", want.Target, got)
			}
		}
		for i, nic := range after.Devices.Interfaces {
			old := before.Devices.Interfaces[i]
			if nic.MAC != nil && (nic.MAC.Address == old.MAC.Address) != (request.Name == "") {
				t.Errorf("MAC address %s became %s", old.MAC.Address, nic.MAC.Address)
			}
		}
	})
}

// libvirt's own schema accepts what was made.
func TestSchema(t *testing.T) {
	const schema = "/usr/share/libvirt/schemas/domain.rng"
	if _, err := exec.LookPath("xmllint"); err != nil && testing.Short() {
		t.Skip("needs xmllint (libxml2-utils)")
	}
	domains(t, func(t *testing.T, name, doc string, request Request) {
		result, err := Domain(doc, request)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{doc, result.XML} {
			cmd := exec.Command("xmllint", "--noout", "--relaxng", schema, "-")
			cmd.Stdin = bytes.NewBufferString(text)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		}
	})
}
