package shutoff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/qemuimg"
	"github.com/virtbackup/virtbackup/xml"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func tool(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
}

// libvirt is what libvirt knows of a domain with the disks vda and vdb.
type libvirt struct {
	guest.Domain
	active      bool
	vda, vdb    string
	checkpoints map[string]string
	calls       []string
}

func (l *libvirt) Name() string          { return "vm1" }
func (l *libvirt) Active() (bool, error) { return l.active, nil }

func (l *libvirt) XML() (string, error) {
	disk := "<disk type='file'><driver type='qcow2'/><source file='%s'/><target dev='%s'/></disk>"
	return fmt.Sprintf("<domain><name>vm1</name><uuid>u</uuid><devices>"+disk+disk+"</devices></domain>", l.vda, "vda", l.vdb, "vdb"), nil
}

func (l *libvirt) CheckpointXML(name string) (string, error) {
	doc, ok := l.checkpoints[name]
	if !ok {
		return "", hypervisor.ErrNoCheckpoint
	}
	return doc, nil
}

func (l *libvirt) Checkpoints(bool) (docs []string, err error) {
	for _, name := range []string{"c1", "c2", "c3", "c4"} {
		if doc, ok := l.checkpoints[name]; ok {
			docs = append(docs, doc)
		}
	}
	return docs, nil
}

func (l *libvirt) CheckpointSizes(string) (string, error) { return "", hypervisor.ErrNotRunning }

func (l *libvirt) DeleteCheckpoint(name string, metadataOnly bool) error {
	l.calls = append(l.calls, fmt.Sprintf("delete %s %v", name, metadataOnly))
	delete(l.checkpoints, name)
	return nil
}

func (l *libvirt) RedefineCheckpoint(doc string, validate bool) error {
	l.calls = append(l.calls, fmt.Sprintf("redefine %v", validate))
	return nil
}

func (l *libvirt) VolumePath(pool, volume string) (string, error) {
	if pool != "pool" {
		return "", errors.New("no such pool")
	}
	return filepath.Join(filepath.Dir(l.vda), volume), nil
}

func document(name string) string {
	return fmt.Sprintf("<domaincheckpoint><name>%[1]s</name><disks><disk name='vda' checkpoint='bitmap' bitmap='%[1]s'/><disk name='vdb' checkpoint='bitmap' bitmap='%[1]s'/>"+
		"<disk name='gone' checkpoint='bitmap' bitmap='%[1]s'/></disks></domaincheckpoint>", name)
}

// kill writes to an image and dies, which leaves all its bitmaps in use.
func kill(t *testing.T, path string) {
	t.Helper()
	_ = exec.Command("qemu-io", "-f", "qcow2", "-c", "write 0 64k", "-c", "sigraise 9", path).Run()
}

func write(t *testing.T, path, at, length string) {
	t.Helper()
	tool(t, "qemu-io", "-f", "qcow2", "-c", "write -P 1 "+at+" "+length, path)
}

// newDomain makes a domain that is off. vda is a chain of two images, as a live external snapshot
// between c1 and c2 leaves it; vdb is one image.
func newDomain(t *testing.T, names ...string) (*Domain, *libvirt) {
	t.Helper()
	dir := t.TempDir()
	base, top, vdb := filepath.Join(dir, "base.qcow2"), filepath.Join(dir, "vda.qcow2"), filepath.Join(dir, "vdb.qcow2")
	must(t, qemuimg.Create(base, "qcow2", 8<<20))
	must(t, qemuimg.AddBitmap(base, "c1", 64<<10))
	write(t, base, "1M", "64k")
	tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
	must(t, qemuimg.AddBitmap(top, "c1", 64<<10))
	write(t, top, "4M", "128k")
	must(t, qemuimg.AddBitmap(top, "c2", 64<<10))
	must(t, qemuimg.Create(vdb, "qcow2", 8<<20))
	must(t, qemuimg.AddBitmap(vdb, "c1", 64<<10))
	must(t, qemuimg.AddBitmap(vdb, "c2", 64<<10))
	write(t, vdb, "0", "64k")
	l := &libvirt{vda: top, vdb: vdb, checkpoints: map[string]string{}}
	for _, name := range names {
		l.checkpoints[name] = document(name)
	}
	return &Domain{l, Options{}}, l
}

func base(l *libvirt) string { return filepath.Join(filepath.Dir(l.vda), "base.qcow2") }

// sized describes the sizes in documents: "c1 vda=64 vdb=-1", in KiB.
func sized(t *testing.T, docs ...string) string {
	t.Helper()
	var all []string
	for _, doc := range docs {
		c, err := xml.ParseCheckpoint(doc)
		must(t, err)
		text := c.Name
		for _, d := range c.Disks {
			size := d.Size
			if size > 0 {
				size >>= 10
			}
			text += fmt.Sprintf(" %s=%d", d.Target, size)
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

// The size of a bitmap that is in several images of a chain is that of all of them; one that
// cannot be used has none.
func TestSizes(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, l *libvirt)
		want   string
	}{
		"sound":                {nil, "c1 vda=192 vdb=64 gone=-1, c2 vda=0 vdb=64 gone=-1"},
		"vdb killed":           {func(t *testing.T, l *libvirt) { kill(t, l.vdb) }, "c1 vda=192 vdb=-1 gone=-1, c2 vda=0 vdb=-1 gone=-1"},
		"base killed":          {func(t *testing.T, l *libvirt) { kill(t, base(l)) }, "c1 vda=-1 vdb=64 gone=-1, c2 vda=0 vdb=64 gone=-1"},
		"not in the top image": {func(t *testing.T, l *libvirt) { must(t, qemuimg.RemoveBitmap(l.vda, "c1")) }, "c1 vda=-1 vdb=64 gone=-1, c2 vda=0 vdb=64 gone=-1"},
		"does not record": {func(t *testing.T, l *libvirt) {
			tool(t, "qemu-img", "bitmap", "--disable", "-f", "qcow2", base(l), "c1")
		}, "c1 vda=-1 vdb=64 gone=-1, c2 vda=0 vdb=64 gone=-1"},
		"a gap": {func(t *testing.T, l *libvirt) {
			top := l.vda
			l.vda += ".2"
			tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", top, "-F", "qcow2", l.vda)
			must(t, qemuimg.RemoveBitmap(top, "c1"))
			must(t, qemuimg.AddBitmap(l.vda, "c1", 64<<10))
		}, "c1 vda=-1 vdb=64 gone=-1, c2 vda=-1 vdb=64 gone=-1"},
		"grown since the snapshot": {func(t *testing.T, l *libvirt) { must(t, qemuimg.Resize(l.vda, "qcow2", 9<<20)) }, "c1 vda=-1 vdb=64 gone=-1, c2 vda=0 vdb=64 gone=-1"},
		"no image":                 {func(t *testing.T, l *libvirt) { must(t, os.Remove(l.vdb)) }, "c1 vda=192 vdb=-1 gone=-1, c2 vda=0 vdb=-1 gone=-1"},
	} {
		t.Run(name, func(t *testing.T) {
			d, l := newDomain(t, "c1", "c2")
			if c.change != nil {
				c.change(t, l)
			}
			docs, err := d.Checkpoints(true)
			must(t, err)
			if got := sized(t, docs...); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// libvirt is asked for the sizes of a domain that runs, and nobody for those that are not wanted.
func TestSizesOfLibvirt(t *testing.T) {
	d, l := newDomain(t, "c1")
	docs, err := d.Checkpoints(false)
	must(t, err)
	if got := sized(t, docs...); got != "c1 vda=-1 vdb=-1 gone=-1" {
		t.Errorf("not wanted: %s", got)
	}
	l.active = true
	if docs, err = d.Checkpoints(true); err != nil || sized(t, docs...) != "c1 vda=-1 vdb=-1 gone=-1" {
		t.Errorf("of a domain that runs: %s, %v", docs, err)
	}
	if _, err := d.CheckpointSizes("c1"); !errors.Is(err, hypervisor.ErrNotRunning) {
		t.Errorf("libvirt was not asked: %v", err)
	}
}

func TestCheckpointSizes(t *testing.T) {
	d, l := newDomain(t, "c1")
	doc, err := d.CheckpointSizes("c1")
	must(t, err)
	if got := sized(t, doc); got != "c1 vda=192 vdb=64 gone=-1" {
		t.Error(got)
	}
	if _, err := d.CheckpointSizes("c9"); !errors.Is(err, hypervisor.ErrNoCheckpoint) {
		t.Errorf("of none: %v", err)
	}
	must(t, os.Remove(l.vdb))
	var refused *hypervisor.Error
	if _, err := d.CheckpointSizes("c1"); !errors.As(err, &refused) || !errors.Is(err, hypervisor.ErrNotRunning) {
		t.Errorf("without an image: %v", err)
	}
}

func bitmaps(t *testing.T, path string) string {
	t.Helper()
	images, err := qemuimg.Chain(context.Background(), path, "qcow2", true)
	must(t, err)
	var names []string
	for _, b := range images[0].QCOW2.Bitmaps {
		names = append(names, b.Name)
	}
	return strings.Join(names, " ")
}

// A deletion removes the bitmaps of this checkpoint from all images, also invalid ones, and no
// others.
func TestDelete(t *testing.T) {
	d, l := newDomain(t, "c1", "c2")
	kill(t, l.vdb)
	must(t, d.DeleteCheckpoint("c1", false))
	if got := bitmaps(t, base(l)) + "|" + bitmaps(t, l.vda) + "|" + bitmaps(t, l.vdb); got != "|c2|c2" {
		t.Errorf("bitmaps %s", got)
	}
	must(t, d.DeleteCheckpoint("c2", true))
	if got := bitmaps(t, l.vda); got != "c2" {
		t.Errorf("only the record: bitmaps %s", got)
	}
	if got := strings.Join(l.calls, ", "); got != "delete c1 true, delete c2 true" {
		t.Errorf("libvirt was asked: %s", got)
	}
	if err := d.DeleteCheckpoint("c1", false); !errors.Is(err, hypervisor.ErrNoCheckpoint) {
		t.Errorf("again: %v", err)
	}
}

// Where a bitmap cannot be removed none is, and the checkpoint stays.
func TestDeleteIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, l *libvirt)
		kind   error
	}{
		"no image": {func(t *testing.T, l *libvirt) { must(t, os.Remove(l.vdb)) }, hypervisor.ErrNotRunning},
		"in use": {func(t *testing.T, l *libvirt) {
			s := filepath.Dir(l.vdb)
			tool(t, "qemu-nbd", "-t", "-f", "qcow2", "-k", s+"/s", "--fork", "--pid-file", s+"/pid", l.vdb)
			t.Cleanup(func() { tool(t, "sh", "-c", "kill -9 $(cat "+s+"/pid)") })
		}, hypervisor.ErrBusy},
		"shared": {func(t *testing.T, l *libvirt) {
			l.vdb = filepath.Join("/proc/self/cwd", l.vdb) // the path does not matter, the file system does
			localFileSystems = map[int64]bool{}
		}, hypervisor.ErrNotRunning},
	} {
		t.Run(name, func(t *testing.T) {
			before := localFileSystems
			defer func() { localFileSystems = before }()
			d, l := newDomain(t, "c1")
			c.change(t, l)
			var refused *hypervisor.Error
			if err := d.DeleteCheckpoint("c1", false); !errors.As(err, &refused) || !errors.Is(err, c.kind) {
				t.Errorf("got %v, want %v", err, c.kind)
			}
			if got := bitmaps(t, l.vda); got != "c1 c2" || len(l.calls) > 0 {
				t.Errorf("bitmaps %s, calls %q", got, l.calls)
			}
		})
	}
}

// libvirt checks the bitmaps of a domain that runs, this package those of one that is off.
func TestRedefine(t *testing.T) {
	d, l := newDomain(t)
	doc := strings.Replace(document("c1"), "<disk name='gone' checkpoint='bitmap' bitmap='c1'/>", "", 1)
	must(t, d.RedefineCheckpoint(doc, true))
	kill(t, l.vdb)
	if err := d.RedefineCheckpoint(doc, true); !errors.Is(err, hypervisor.ErrCheckpointInconsistent) || !strings.Contains(err.Error(), "[vdb]") {
		t.Errorf("a bitmap is in use: %v", err)
	}
	if err := d.RedefineCheckpoint(document("c1"), true); !errors.Is(err, hypervisor.ErrCheckpointInconsistent) || !strings.Contains(err.Error(), "[gone vdb]") {
		t.Errorf("a disk is gone: %v", err)
	}
	must(t, d.RedefineCheckpoint(doc, false))
	l.active = true
	must(t, d.RedefineCheckpoint(doc, true))
	if got := strings.Join(l.calls, ", "); got != "redefine false, redefine false, redefine true" {
		t.Errorf("libvirt was asked: %s", got)
	}
}

// What cannot be read without QEMU, or would have to be guessed, is refused with the reason.
func TestImages(t *testing.T) {
	d, l := newDomain(t)
	dir := filepath.Dir(l.vda)
	guessed, network, qed := filepath.Join(dir, "guessed"), filepath.Join(dir, "network"), filepath.Join(dir, "qed")
	tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base(l), "-F", "qcow2", guessed)
	header, err := os.ReadFile(guessed)
	must(t, err)
	must(t, os.WriteFile(guessed, bytes.Replace(header, []byte("\xe2\x79\x2a\xca"), []byte("\xe2\x79\x2a\x00"), 1), 0o600)) // the header extension with the format
	tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base(l), "-F", "qcow2", network)
	tool(t, "qemu-img", "create", "-q", "-f", "qed", qed, "8M")
	relative := filepath.Join(dir, "relative")
	tool(t, "sh", "-c", "cd "+dir+" && qemu-img create -q -f qcow2 -o data_file=data relative 8M")
	linked := filepath.Join(dir, "linked")
	must(t, os.Symlink(base(l), linked))
	for name, c := range map[string]struct {
		disk xml.Disk
		want string // a part of the reason; a number of images
	}{
		"chain":            {xml.Disk{SourceType: "file", Source: l.vda}, "2"},
		"volume":           {xml.Disk{SourceType: "volume", Source: "pool/vda.qcow2"}, "2"},
		"raw":              {xml.Disk{SourceType: "file", Source: l.vda, Format: "raw"}, "1"},
		"backing as it is": {xml.Disk{SourceType: "file", Source: l.vda, Backing: []string{linked}, BackingFormats: []string{"qcow2"}, BackingEnds: true}, "2"},
		"no backing":       {xml.Disk{SourceType: "file", Source: l.vda, BackingEnds: true}, "has no backing file, and it has"},
		"other backing":    {xml.Disk{SourceType: "file", Source: l.vda, Backing: []string{l.vdb}, BackingFormats: []string{""}}, "its XML has the backing file"},
		"more backing":     {xml.Disk{SourceType: "file", Source: l.vdb, Backing: []string{l.vda}, BackingFormats: []string{""}}, "has none"},
		"other format":     {xml.Disk{SourceType: "file", Source: l.vda, Backing: []string{linked}, BackingFormats: []string{"raw"}}, "is raw, and"},
		"guessed format":   {xml.Disk{SourceType: "file", Source: guessed}, "does not record the format"},
		"relative data":    {xml.Disk{SourceType: "file", Source: relative}, "data file by the relative path data"},
		"qed":              {xml.Disk{SourceType: "file", Source: qed, Format: "qed"}, "its format is qed"},
		"network":          {xml.Disk{SourceType: "network", Source: "rbd:a/b"}, "of the type network"},
		"encrypted":        {xml.Disk{SourceType: "file", Source: l.vda, Encrypted: true}, "encrypted"},
		"slices":           {xml.Disk{SourceType: "file", Source: l.vda, Special: "slices"}, "<slices>"},
		"no device":        {xml.Disk{SourceType: "file", Source: "/dev/null", Format: "raw"}, "neither a file nor a block device"},
	} {
		c.disk.Target = "vda"
		if c.disk.Format == "" {
			c.disk.Format = "qcow2"
		}
		chain, err := Images(context.Background(), d, c.disk, false)
		var only *RunningOnlyError
		switch {
		case errors.As(err, &only):
			if !strings.Contains(only.Why, c.want) || !strings.Contains(only.Hint(), "virsh start --paused vm1") {
				t.Errorf("%s: %v, want %s", name, err, c.want)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case fmt.Sprint(len(chain)) != c.want:
			t.Errorf("%s: %d images, want %s", name, len(chain), c.want)
		}
	}
}

func TestMayBeShared(t *testing.T) {
	var shared *SharedError
	if err := MayBeShared("/proc/self/status"); !errors.As(err, &shared) {
		t.Errorf("an unknown file system: %v", err)
	}
	if err := MayBeShared("/dev/null"); !errors.As(err, &shared) || !strings.Contains(shared.Hint(), "--exclusive") {
		t.Errorf("a device: %v", err)
	}
	if err := refused(shared); !errors.Is(err, hypervisor.ErrNotRunning) || !strings.HasSuffix(err.Error(), "which another host may use, unless --exclusive says that none does") {
		t.Errorf("what is left because of a device: %v", err)
	}
	if err := MayBeShared(t.TempDir() + "/absent"); err == nil || errors.As(err, &shared) {
		t.Errorf("nothing: %v", err)
	}
	path := filepath.Join(t.TempDir(), "a")
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, MayBeShared(path))
	must(t, Options{Exclusive: true}.mayWrite("/dev/null"))
}
