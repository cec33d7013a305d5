package extras

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/manifest"
)

const tpmXML = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"

// tpmDir is a directory like libvirt's, with the state of a TPM.
func tpmDir(t *testing.T, version string) (top, dir string) {
	t.Helper()
	top = t.TempDir()
	dir = filepath.Join(top, uuid, version)
	must(t, os.MkdirAll(dir, 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "tpm2-00.permall"), []byte("state"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, ".lock"), nil, 0o640))
	return top, dir
}

func takeTPM(t *testing.T, d *fakeDomain, first bool, top string) (*fakePoint, Taken) {
	t.Helper()
	p := newPoint(t, t.TempDir(), ".partial-check1")
	k := &taker{Request: Request{Domain: d, Point: p, First: first, Moves: func() {}}, tpmDir: top}
	must(t, k.take(t.Context()))
	return p, k.Taken
}

func TestTPM(t *testing.T) {
	top, dir := tpmDir(t, "tpm2")
	p, taken := takeTPM(t, &fakeDomain{devices: tpmXML}, true, top)
	p.check(t, taken, "tpm.tar")
	wantWords(t, "warnings", taken.Warnings)
	if e := taken.Extras[0]; e.Kind != manifest.ExtraTPM || e.Path != dir || e.Format != "tar" || e.Mode != "0700" {
		t.Errorf("%+v", e)
	}
	out := t.TempDir() // as somebody without virtbackup would
	if text, err := exec.Command("tar", "-C", out, "-xvf", filepath.Join(p.dir, "tpm.tar")).CombinedOutput(); err != nil || string(text) != "tpm2-00.permall\n" {
		t.Errorf("tar: %s, %v", text, err)
	}
	archive, err := os.Open(filepath.Join(p.dir, "tpm.tar"))
	must(t, err)
	defer archive.Close()
	back := t.TempDir()
	made, err := Unpack(archive, back)
	must(t, err)
	if data, err := os.ReadFile(filepath.Join(back, "tpm2-00.permall")); string(data) != "state" || err != nil || len(made) != 1 {
		t.Errorf("%q, %v, made %q", data, err, made)
	}

	top, _ = tpmDir(t, "tpm1.2")
	p, taken = takeTPM(t, &fakeDomain{devices: "<tpm><backend type='emulator' version='1.2'/></tpm>"}, true, top)
	p.check(t, taken, "tpm.tar")
	p, taken = takeTPM(t, &fakeDomain{devices: "<tpm><backend type='emulator' version='2.0'><source type='dir' path='" + dir + "'/></backend></tpm>"}, true, "/none")
	p.check(t, taken, "tpm.tar")
	state := filepath.Join(dir, "tpm2-00.permall")
	p, taken = takeTPM(t, &fakeDomain{devices: "<tpm><backend type='emulator' version='2.0'><source type='file' path='" + state + "'/></backend></tpm>"}, true, "/none")
	p.check(t, taken, "tpm")
	p, taken = takeTPM(t, &fakeDomain{devices: "<tpm><backend type='emulator' version='1.2'><encryption secret='6dd3'/></backend></tpm>"}, true, top)
	p.check(t, taken, "tpm.tar")
	wantWords(t, "warnings", taken.Warnings, "secret 6dd3")
}

// The state of a domain that runs is not taken: a warning in the first point of a chain, a note
// in the others.
func TestTPMOfADomainThatRuns(t *testing.T) {
	top, _ := tpmDir(t, "tpm2")
	p, taken := takeTPM(t, &fakeDomain{devices: tpmXML, active: true}, true, top)
	p.check(t, taken)
	wantWords(t, "warnings", taken.Warnings, "TPM", "because the domain runs", "shut off")
	wantWords(t, "notes", taken.Notes)
	_, taken = takeTPM(t, &fakeDomain{devices: tpmXML, active: true}, false, top)
	wantWords(t, "warnings", taken.Warnings)
	wantWords(t, "notes", taken.Notes, "TPM", "because the domain runs")
	p, taken = takeTPM(t, &fakeDomain{devices: tpmXML, starts: true}, true, top)
	p.check(t, taken)
	wantWords(t, "a start meanwhile", taken.Warnings, "written to all the time")
}

func TestTPMThatIsNotThere(t *testing.T) {
	p, taken := takeTPM(t, &fakeDomain{devices: tpmXML}, true, t.TempDir())
	p.check(t, taken)
	wantWords(t, "warnings", taken.Warnings, "TPM is not in the point", uuid+"/tpm2: missing")
	top, dir := tpmDir(t, "tpm2")
	must(t, os.Remove(filepath.Join(dir, "tpm2-00.permall")))
	_, taken = takeTPM(t, &fakeDomain{devices: tpmXML}, true, top)
	wantWords(t, "an empty directory", taken.Warnings, "missing")
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	_, taken = takeTPM(t, &fakeDomain{devices: tpmXML}, true, top)
	wantWords(t, "a directory in it", taken.Warnings, "not a regular file")
}

// Nothing leaves the directory that an archive is unpacked into, and nothing is overwritten.
func TestUnpackRefuses(t *testing.T) {
	for what, header := range map[string]tar.Header{
		"a path upwards": {Typeflag: tar.TypeReg, Name: "../x"},
		"absolute":       {Typeflag: tar.TypeReg, Name: "/tmp/virtbackup-x"},
		"a path down":    {Typeflag: tar.TypeReg, Name: "a/b"},
		"a link":         {Typeflag: tar.TypeSymlink, Name: "x", Linkname: "/etc/passwd"},
		"a hard link":    {Typeflag: tar.TypeLink, Name: "x", Linkname: "there"},
		"a device":       {Typeflag: tar.TypeChar, Name: "x"},
		"a directory":    {Typeflag: tar.TypeDir, Name: "x"},
		"hidden":         {Typeflag: tar.TypeReg, Name: ".lock"},
		"there already":  {Typeflag: tar.TypeReg, Name: "there"},
	} {
		above := t.TempDir()
		dir := filepath.Join(above, "dir")
		must(t, os.Mkdir(dir, 0o700))
		must(t, os.WriteFile(filepath.Join(dir, "there"), []byte("there"), 0o600))
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		must(t, w.WriteHeader(&header))
		must(t, w.Close())
		if made, err := Unpack(&archive, dir); err == nil || len(made) > 0 {
			t.Errorf("%s: made %q, %v", what, made, err)
		}
		for _, d := range []string{above, dir} {
			if entries, err := os.ReadDir(d); err != nil || len(entries) != 1 {
				t.Errorf("%s: %v, %v", what, entries, err)
			}
		}
		if data, err := os.ReadFile(filepath.Join(dir, "there")); string(data) != "there" {
			t.Errorf("%s: %q, %v", what, data, err)
		}
	}
	if _, err := Unpack(bytes.NewReader([]byte("no archive")), t.TempDir()); err == nil {
		t.Error("no archive: no error")
	}
}

func FuzzUnpack(f *testing.F) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "tpm2-00.permall", Size: 5, Mode: 0o600})
	_, _ = w.Write([]byte("state"))
	_ = w.Close()
	f.Add(archive.Bytes())
	f.Fuzz(func(t *testing.T, archive []byte) {
		above := t.TempDir()
		dir := filepath.Join(above, "dir")
		must(t, os.Mkdir(dir, 0o700))
		made, _ := Unpack(bytes.NewReader(archive), dir)
		for _, path := range made {
			if info, err := os.Lstat(path); filepath.Dir(path) != dir || err != nil || !info.Mode().IsRegular() {
				t.Errorf("made %q: %v", path, err)
			}
		}
		if entries, err := os.ReadDir(above); err != nil || len(entries) != 1 {
			t.Errorf("above: %v, %v", entries, err)
		}
	})
}

func TestStateDir(t *testing.T) {
	for version, want := range map[string]string{"2.0": "/var/lib/libvirt/swtpm/" + uuid + "/tpm2", "1.2": "/var/lib/libvirt/swtpm/" + uuid + "/tpm1.2"} {
		if got := StateDir(uuid, version); got != want {
			t.Errorf("%s: %s, want %s", version, got, want)
		}
	}
}
