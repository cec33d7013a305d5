package extras

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/pointfile"
	"github.com/virtbackup/virtbackup/tests/testfs"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fakeDomain is a domain with the elements of <os> and <devices>.
type fakeDomain struct {
	os, inactiveOS, devices string // inactiveOS "" is os
	active, autostart       bool
	transient               bool
	planned                 string
	starts                  bool   // when it is asked for the second time whether it runs
	qemu                    []byte // the variables that QEMU has; nil: none
	fails                   error
	asked                   int
}

const uuid = "5d5a1f4e-3a3b-4a57-9d2e-6c0a6d1b2c33"

func (d *fakeDomain) doc(os string) (string, error) {
	return "<domain>" + os + "<devices>" + d.devices + "</devices></domain>", d.fails
}
func (d *fakeDomain) UUID() string              { return uuid }
func (d *fakeDomain) XML() (string, error)      { return d.doc(d.os) }
func (d *fakeDomain) Persistent() (bool, error) { return !d.transient, nil }
func (d *fakeDomain) InactiveXML() (string, error) {
	if d.inactiveOS == "" {
		return d.XML()
	}
	return d.doc(d.inactiveOS)
}
func (d *fakeDomain) Active() (bool, error) {
	d.asked++
	return d.active || d.starts && d.asked > 1, nil
}
func (d *fakeDomain) Autostart() (bool, error) { return d.autostart, d.fails }
func (d *fakeDomain) PlannedNVRAM() (string, string, error) {
	if d.planned == "" {
		return "", "", nil
	}
	return d.planned, "raw", nil
}
func (d *fakeDomain) CopyNVRAM(ctx context.Context, to *os.File) error {
	if d.qemu == nil {
		return errors.New("QEMU has no node of that kind")
	}
	_, err := to.Write(d.qemu)
	return err
}

// fakePoint is a directory beside those of sealed points.
type fakePoint struct {
	dir   string
	files map[string]string
	links int
	full  bool
}

func newPoint(t *testing.T, domain, id string) *fakePoint {
	t.Helper()
	p := &fakePoint{dir: filepath.Join(domain, id), files: map[string]string{}}
	must(t, os.Mkdir(p.dir, 0o700))
	return p
}

func (p *fakePoint) Dir() string { return p.dir }
func (p *fakePoint) CopyFile(name string, from io.Reader) (string, int64, error) {
	if p.full {
		return "", 0, unix.ENOSPC
	}
	sum, size, err := pointfile.Write(filepath.Join(p.dir, name), from)
	if err == nil {
		p.files[name] = sum
	}
	return sum, size, err
}
func (p *fakePoint) LinkFile(name string, of manifest.Manifest, file string) error {
	p.links++
	p.files[name] = of.Files[file]
	return os.Link(filepath.Join(filepath.Dir(p.dir), of.ID, file), filepath.Join(p.dir, name))
}
func (p *fakePoint) DropFile(name string) error {
	delete(p.files, name)
	return os.Remove(filepath.Join(p.dir, name))
}

// check compares what was taken with what is in the point.
func (p *fakePoint) check(t *testing.T, taken Taken, want ...string) {
	t.Helper()
	var got []string
	for _, e := range taken.Extras {
		got = append(got, e.File)
		data, err := os.ReadFile(filepath.Join(p.dir, e.File))
		if err != nil || int64(len(data)) != e.Size || p.files[e.File] != digest.Of(data) {
			t.Errorf("%s: %d bytes of %d, %v", e.File, len(data), e.Size, err)
		}
	}
	entries, _ := os.ReadDir(p.dir)
	if !reflect.DeepEqual(got, want) && len(got)+len(want) > 0 || len(entries) != len(want) {
		t.Errorf("taken %q, in the point %v, want %q", got, entries, want)
	}
}

func take(t *testing.T, d Domain, p Point, earlier ...manifest.Manifest) Taken {
	t.Helper()
	taken, err := Take(t.Context(), Request{Domain: d, Point: p, Earlier: earlier, First: len(earlier) == 0})
	must(t, err)
	return taken
}

// wantWords expects one sentence with these words, none if there are no words.
func wantWords(t *testing.T, what string, sentences []string, words ...string) {
	t.Helper()
	all := strings.Join(sentences, "\n")
	if len(words) == 0 && all != "" || len(words) > 0 && len(sentences) != 1 {
		t.Errorf("%s: %q, want words %q", what, all, words)
	}
	for _, w := range words {
		if !strings.Contains(all, w) {
			t.Errorf("%s: %q lacks %q", what, all, w)
		}
	}
}

func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(path, []byte(content), 0o644))
	return path
}

func TestNothing(t *testing.T) {
	p := newPoint(t, t.TempDir(), ".partial-check1")
	taken := take(t, &fakeDomain{os: "<os><loader>/usr/share/seabios/bios.bin</loader></os>", active: true}, p)
	p.check(t, taken)
	wantWords(t, "warnings", taken.Warnings)
	wantWords(t, "notes", taken.Notes)
	if taken.Autostart {
		t.Error("autostart")
	}
}

func TestFiles(t *testing.T) {
	p := newPoint(t, t.TempDir(), ".partial-check1")
	kernel, own := file(t, "vmlinuz", "kernel"), file(t, "own.fd", "firmware")
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(kernel, link))
	d := &fakeDomain{autostart: true, active: true, inactiveOS: fmt.Sprintf(
		"<os><loader readonly='yes'>%s</loader><kernel>%s</kernel><initrd>%s</initrd><dtb>%s</dtb><acpi><table type='slic'>%s</table></acpi></os>",
		own, link, file(t, "initrd", "initrd"), file(t, "dtb", ""), file(t, "slic", "table"))}
	taken := take(t, d, p)
	p.check(t, taken, "kernel", "initrd", "dtb", "acpi1", "loader.fd")
	wantWords(t, "warnings", taken.Warnings)
	if e := taken.Extras[0]; e.Kind != manifest.ExtraKernel || e.Path != link || e.Mode != "0644" || !taken.Autostart {
		t.Errorf("kernel %+v, autostart %v", e, taken.Autostart)
	}
}

// What cannot be read is a warning, and the rest is taken.
func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	for what, tt := range map[string]struct{ path, words string }{
		"missing":     {filepath.Join(dir, "gone"), "gone: missing"},
		"a directory": {dir, "is not a regular file"},
		"a FIFO":      {filepath.Join(dir, "fifo"), "is not a regular file"},
		"a device":    {"/dev/zero", "is not a regular file"},
		"no path":     {"vmlinuz", "is not one of a host"},
		"two lines":   {"/boot/vml\ninuz", "is not one of a host"},
	} {
		p := newPoint(t, t.TempDir(), ".partial-check1")
		taken := take(t, &fakeDomain{os: "<os><kernel>" + tt.path + "</kernel><initrd>" + file(t, "initrd", "x") + "</initrd></os>"}, p)
		p.check(t, taken, "initrd")
		wantWords(t, what, taken.Warnings, "the kernel is not in the point: ", tt.words)
	}
	p := newPoint(t, t.TempDir(), ".partial-check1")
	taken := take(t, &fakeDomain{fails: errors.New("no libvirtd")}, p)
	p.check(t, taken)
	if len(taken.Warnings) != 2 || !strings.Contains(taken.Warnings[1], "no libvirtd") {
		t.Errorf("%q", taken.Warnings)
	}
}

// A repository that cannot be written to fails the run, and so does a cancelled context.
func TestFails(t *testing.T) {
	d := &fakeDomain{os: "<os><kernel>" + file(t, "kernel", "x") + "</kernel></os>"}
	p := newPoint(t, t.TempDir(), ".partial-check1")
	p.full = true
	if _, err := Take(t.Context(), Request{Domain: d, Point: p}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	cancel(cause)
	if _, err := Take(ctx, Request{Domain: d, Point: p}); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}

// A large file that has not changed is stored once, unless what is stored is damaged.
func TestLinks(t *testing.T) {
	domain := t.TempDir()
	kernel := file(t, "kernel", strings.Repeat("kernel", linkFrom))
	d := &fakeDomain{os: "<os><kernel>" + kernel + "</kernel></os>"}
	var points []manifest.Manifest
	for i, tt := range []struct {
		before func()
		links  int
	}{
		{func() {}, 0},
		{func() {}, 1},
		{func() { must(t, os.WriteFile(kernel, bytes.Repeat([]byte("new"), linkFrom), 0o644)) }, 0},
		{func() { must(t, os.WriteFile(filepath.Join(domain, "check3", "kernel"), nil, 0o600)) }, 0},
	} {
		tt.before()
		p := newPoint(t, domain, fmt.Sprintf("check%d", i+1))
		taken := take(t, d, p, points...)
		p.check(t, taken, "kernel")
		if p.links != tt.links {
			t.Errorf("point %d: %d links, want %d", i+1, p.links, tt.links)
		}
		points = append(points, manifest.Manifest{Domain: "vm1", ID: filepath.Base(p.dir), Files: p.files, Extras: taken.Extras})
	}
}

func TestNVRAM(t *testing.T) {
	vars := file(t, "vm1_VARS.fd", "variables")
	nvram := "<os><loader readonly='yes' type='pflash'>/usr/share/OVMF/CODE.fd</loader><nvram>" + vars + "</nvram></os>"
	for what, tt := range map[string]struct {
		domain fakeDomain
		from   string // "" is a warning
		words  string
	}{
		"running":                  {fakeDomain{os: nvram, active: true}, vars, ""},
		"shut off":                 {fakeDomain{os: nvram}, vars, ""},
		"chosen by libvirt":        {fakeDomain{os: "<os firmware='efi'/>", planned: vars}, vars, ""},
		"only the live XML has it": {fakeDomain{os: nvram, inactiveOS: "<os firmware='efi'/>", active: true}, vars, ""},
		"a varstore":               {fakeDomain{os: "<os><varstore path='" + vars + "'/></os>", active: true}, vars, ""},
		"writable firmware":        {fakeDomain{os: "<os><loader readonly='no' type='pflash'>" + vars + "</loader></os>", active: true}, vars, ""},
		"not there yet":            {fakeDomain{os: "<os firmware='efi'/>", planned: vars + ".gone"}, "", "the UEFI variables are not in the point: " + vars + ".gone: missing"},
		"a network, off":           {fakeDomain{os: "<os><nvram type='network'><source protocol='iscsi' name='iqn/0'/></nvram></os>"}, "", "only while the domain runs"},
		"qcow2 without a QEMU":     {fakeDomain{os: "<os><nvram format='qcow2'>" + vars + "</nvram></os>", active: true}, "", "no node of that kind"},
		"no qcow2":                 {fakeDomain{os: "<os><nvram format='qcow2'>" + vars + "</nvram></os>"}, "", "not a qcow2 image"},
	} {
		p := newPoint(t, t.TempDir(), ".partial-check1")
		taken := take(t, &tt.domain, p)
		if tt.from == "" {
			p.check(t, taken)
			wantWords(t, what, taken.Warnings, tt.words)
			continue
		}
		wantWords(t, what, taken.Warnings)
		if len(taken.Extras) != 1 || taken.Extras[0].Path != tt.from {
			t.Errorf("%s: %+v", what, taken.Extras)
			continue
		}
		p.check(t, taken, taken.Extras[0].File)
	}
}

// Variables in a file that QEMU has open as qcow2 are those that QEMU has.
func TestNVRAMInQCOW2(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vars.qcow2")
	qemuImg(t, "create", "-q", "-f", "qcow2", path, "528K")
	d := &fakeDomain{os: "<os><nvram format='qcow2'>" + path + "</nvram></os>"}
	p := newPoint(t, t.TempDir(), ".partial-check1")
	taken := take(t, d, p)
	p.check(t, taken, "nvram.fd")
	d.active, d.qemu = true, bytes.Repeat([]byte("variable"), 66<<10)
	raw := file(t, "raw", string(d.qemu))
	p = newPoint(t, t.TempDir(), ".partial-check2")
	taken = take(t, d, p)
	p.check(t, taken, "nvram.fd")
	if e := taken.Extras[0]; e.Format != "qcow2" || e.Path != path || e.Mode != "0644" {
		t.Errorf("%+v", e)
	}
	qemuImg(t, "compare", "-f", "qcow2", "-F", "raw", filepath.Join(p.dir, "nvram.fd"), raw)
	qemuImg(t, "check", "-q", "-f", "qcow2", filepath.Join(p.dir, "nvram.fd"))

	over := filepath.Join(t.TempDir(), "over.qcow2")
	qemuImg(t, "create", "-q", "-f", "qcow2", "-b", path, "-F", "qcow2", over)
	p = newPoint(t, t.TempDir(), ".partial-check3")
	taken = take(t, &fakeDomain{os: "<os><nvram format='qcow2'>" + over + "</nvram></os>"}, p)
	p.check(t, taken)
	wantWords(t, "a backing file", taken.Warnings, "needs a further file")
}

func qemuImg(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// A file that is written to while it is read is read again; if that does not end, QEMU is asked.
func TestSteady(t *testing.T) {
	vars := file(t, "vars", "old")
	d := &fakeDomain{active: true, os: "<os><nvram>" + vars + "</nvram></os>"}
	p := newPoint(t, t.TempDir(), ".partial-check1")
	writes := 0
	change := func() { // while the file is read
		if writes++; writes < 8 {
			must(t, os.WriteFile(vars, fmt.Appendf(nil, "state %d", writes), 0o644))
		}
	}
	taken, err := Take(t.Context(), Request{Domain: d, Point: p, Moves: change})
	must(t, err)
	p.check(t, taken, "nvram.fd")
	if data, err := os.ReadFile(filepath.Join(p.dir, "nvram.fd")); err != nil || string(data) != "state 7" {
		t.Errorf("got %q, %v", data, err)
	}
	always := func() { must(t, os.WriteFile(vars, fmt.Appendf(nil, "at %v", time.Now()), 0o644)) }
	for _, qemu := range [][]byte{[]byte("QEMU's"), nil} {
		d.qemu = qemu
		p = newPoint(t, t.TempDir(), ".partial-check1")
		taken, err = Take(t.Context(), Request{Domain: d, Point: p, Moves: always})
		must(t, err)
		if qemu == nil {
			p.check(t, taken)
			wantWords(t, "no QEMU", taken.Warnings, "no node of that kind")
			continue
		}
		p.check(t, taken, "nvram.fd")
		if data, err := os.ReadFile(filepath.Join(p.dir, "nvram.fd")); err != nil || string(data) != "QEMU's" {
			t.Errorf("got %q, %v", data, err)
		}
	}
	p = newPoint(t, t.TempDir(), ".partial-check1")
	taken, err = Take(t.Context(), Request{Domain: &fakeDomain{os: "<os><kernel>" + vars + "</kernel></os>"}, Point: p, Moves: always})
	must(t, err)
	p.check(t, taken)
	wantWords(t, "a kernel", taken.Warnings, "written to all the time")
}

// The same content is not enough: the file may have had another one in between.
func TestSteadyByTimes(t *testing.T) {
	vars := file(t, "vars", "same")
	p := newPoint(t, t.TempDir(), ".partial-check1")
	touch := func() { must(t, os.WriteFile(vars, []byte("same"), 0o644)) }
	taken, err := Take(t.Context(), Request{Domain: &fakeDomain{os: "<os><kernel>" + vars + "</kernel></os>"}, Point: p, Moves: touch})
	must(t, err)
	p.check(t, taken)
	wantWords(t, "warnings", taken.Warnings, "written to all the time")
}

func TestSourceOptions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.qcow2")
	for options, want := range map[string]manifest.SourceOptions{
		"compat=0.10":           {Compat: "0.10", ClusterSize: 65536, RefcountBits: 16},
		"cluster_size=2M":       {Compat: "1.1", ClusterSize: 2 << 20, RefcountBits: 16, CompressionType: "zlib"},
		"compression_type=zstd": {Compat: "1.1", ClusterSize: 65536, RefcountBits: 16, CompressionType: "zstd"},
		"extended_l2=on,lazy_refcounts=on,refcount_bits=1": {Compat: "1.1", ClusterSize: 65536, RefcountBits: 1, CompressionType: "zlib", ExtendedL2: true, LazyRefcounts: true},
		"data_file=" + path + ".raw,data_file_raw=on":      {Compat: "1.1", ClusterSize: 65536, RefcountBits: 16, CompressionType: "zlib", DataFile: path + ".raw", DataFileRaw: true},
	} {
		qemuImg(t, "create", "-q", "-f", "qcow2", "-o", options, path, "1M")
		if got := SourceOptions(path, "file", "qcow2"); got != want {
			t.Errorf("%s: got %+v, want %+v", options, got, want)
		}
	}
	for _, tt := range [][3]string{{path, "file", "raw"}, {path, "network", "qcow2"}, {path + ".gone", "file", "qcow2"}, {"/dev/null", "block", "qcow2"}, {path + ".raw", "file", "qcow2"}} {
		if got := SourceOptions(tt[0], tt[1], tt[2]); got.Known() {
			t.Errorf("%q: %+v", tt, got)
		}
	}
}

// A block device has no times: there only the same content twice says that it is of one
// instant.
func TestSteadyDevice(t *testing.T) {
	const size = 2 << 20 // more than is read at once
	device := testfs.Loop(t, size, 'a')
	p := newPoint(t, t.TempDir(), ".partial-check1")
	writes := byte(0)
	change := func() {
		if writes++; writes < 12 {
			must(t, os.WriteFile(device, bytes.Repeat([]byte{'a' + writes}, size), 0))
		}
	}
	taken, err := Take(t.Context(), Request{Domain: &fakeDomain{os: "<os><kernel>" + device + "</kernel></os>"}, Point: p, Moves: change})
	must(t, err)
	p.check(t, taken, "kernel")
	if data, err := os.ReadFile(filepath.Join(p.dir, "kernel")); err != nil || !bytes.Equal(data, bytes.Repeat(data[:1], size)) {
		t.Errorf("it is of two instants, or %v", err)
	}
}
