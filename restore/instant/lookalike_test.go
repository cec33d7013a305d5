package instant

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/restore"
)

// The tests here are of what looks like the end of an instant restore, or like one of its images, and is
// not. They have libvirt's own test driver, which has domains and no QEMU.

const aUUID = "11111111-2222-4333-8444-555555555555"

// place is a repository with the pin of an instant restore to a directory.
type place struct {
	t    *testing.T
	repo *repository.Repository
	host *hypervisor.Conn
	pin  keep.Pin
	dir  string
}

// placeOf makes one, and a domain of the pin's UUID on an image unless that is "".
func placeOf(t *testing.T, dir, image string) *place {
	t.Helper()
	repo, err := repository.Create(filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := repo.Lock("vm1")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()
	device, err := deviceOf(dir)
	if err != nil {
		t.Fatal(err)
	}
	pin, err := keep.AddPin(repo.DomainDir("vm1"), manifest.Manifest{ID: "check1", Domain: "vm1", Identity: "0123456789abcdef"}, "test",
		&keep.Runs{Name: "vm1", UUID: aUUID, Dir: dir, Socket: filepath.Join(t.TempDir(), socketPrefix+manifest.NewIdentity()+".sock"),
			Files: []string{"vm1.xml", "vda.qcow2"}, Place: repo.Place(), Device: device, Sizes: map[string]int64{"vda": 1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	host, err := hypervisor.Connect("test:///default")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	p := &place{t, repo, host, pin, dir}
	if image != "" {
		p.define(image)
	}
	return p
}

func (p *place) define(image string) {
	p.t.Helper()
	if _, err := p.host.Define(fmt.Sprintf(`<domain type='test'><name>vm1</name><uuid>%s</uuid><memory>65536</memory><os><type>hvm</type></os><devices>`+
		`<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%s'/><target dev='vda' bus='virtio'/></disk></devices></domain>`, aUUID, image), false); err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) qemuImg(args ...string) {
	p.t.Helper()
	if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
		p.t.Fatalf("qemu-img %q: %v: %s", args, err, out)
	}
}

// onServer makes an image whose backing file is the export, as it is said here.
func (p *place) onServer(path, backing string) {
	p.t.Helper()
	p.qemuImg("create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, path, "1M")
}

func (p *place) uri() string { return "nbd+unix:///vda?socket=" + p.pin.Runs.Socket }

// recovered has recover clean up, which keeps the pin or not.
func (p *place) recovered(pinned bool) (said string) {
	p.t.Helper()
	request := Request{}
	request.Domain = "vm1"
	fixed, left, err := Recover(p.repo, p.host, request, false)
	said = fmt.Sprintf("fixed %q, left %q, error %v", fixed, left, err)
	p.wantPinned(pinned, said)
	return said
}

func (p *place) wantPinned(want bool, said string) {
	p.t.Helper()
	if pins, _, err := p.repo.Pins("vm1"); (len(pins) > 0) != want || err != nil {
		p.t.Errorf("%d pins, error %v: %s", len(pins), err, said)
	}
}

// run takes the pin.
func (p *place) run() *run {
	p.t.Helper()
	request := Request{}
	request.Domain = "vm1"
	r := newRun(p.repo, p.host, request)
	if err := r.take(p.pin); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if err := r.letGo(); err != nil {
			p.t.Error(err)
		}
	})
	if _, err := r.isWhole(); err != nil {
		p.t.Fatal(err)
	}
	return r
}

// An image that is not there may need the point: its file system is not mounted.
func TestImageNotThere(t *testing.T) {
	dir := t.TempDir() // an empty mountpoint
	p := placeOf(t, dir, filepath.Join(dir, "vda.qcow2"))
	if said := p.recovered(true); !strings.Contains(said, "cannot be seen") {
		t.Error(said)
	}
	p.qemuImg("create", "-q", "-f", "qcow2", filepath.Join(dir, "vda.qcow2"), "1M")
	p.recovered(false)
}

// Neither is there, nor the domain: where the directory is on another file system than it was, that is why.
func TestDirNotThere(t *testing.T) {
	p := placeOf(t, "/dev/shm/vbtest-not-mounted", "") // the device of /dev/shm
	r := p.run()
	if has, err := r.hasRun(); has || err != nil {
		t.Errorf("killed before it has made anything: %v, %v", has, err)
	}
	r.pin.Runs.Dir = filepath.Join("/proc", "vbtest-not-mounted")
	if has, err := r.hasRun(); !has || err != nil {
		t.Errorf("another file system: %v, %v", has, err)
	}
}

// An image below the domain's is not there: what it needs is not known.
func TestBackingFileNotThere(t *testing.T) {
	dir := t.TempDir()
	top := filepath.Join(dir, "top")
	p := placeOf(t, dir, top)
	p.qemuImg("create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", filepath.Join(dir, "away", "vda.qcow2"), top, "1M")
	p.recovered(true)
}

// QEMU and libvirt write an export into images as JSON, too.
func TestBackingFileAsJSON(t *testing.T) {
	image := filepath.Join(t.TempDir(), "new.qcow2")
	p := placeOf(t, t.TempDir(), image)
	doc, err := json.Marshal(map[string]any{"driver": "nbd", "export": "vda", "server": map[string]any{"type": "unix", "path": p.pin.Runs.Socket}})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(doc), strings.ReplaceAll(string(doc), "/", `\/`)} {
		p.onServer(image, "json:"+text)
		p.recovered(true)
	}
}

// A colon in a path makes no protocol of it.
func TestPathWithColon(t *testing.T) {
	dir := t.TempDir()
	top, middle := filepath.Join(dir, "top"), filepath.Join(dir, "vda.2026-11-30T20:15:00")
	p := placeOf(t, dir, top)
	p.onServer(middle, p.uri())
	p.qemuImg("create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", middle, top, "1M")
	if needs, err := p.run().needs(top); !needs || err != nil {
		t.Errorf("needs the server: %v, %v", needs, err)
	}
}

// What is no disk of the restore does not keep it from its end: a disk that may be missing, one that cannot be
// read, a drive without a disc, and a raw disk on which a guest has written an image.
func TestOtherDisksDoNotMatter(t *testing.T) {
	dir := t.TempDir()
	image, raw := filepath.Join(dir, "vda.qcow2"), filepath.Join(t.TempDir(), "raw")
	p := placeOf(t, dir, "")
	p.qemuImg("create", "-q", "-f", "qcow2", image, "1M")
	p.qemuImg("create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "/in/the/guest", raw, "1M")
	disk := func(format, source, target, more string) string {
		return fmt.Sprintf(`<disk type='file' %s><driver name='qemu' type='%s'/><source file='%s'/><target dev='%s' bus='scsi'/></disk>`, more, format, source, target)
	}
	if _, err := p.host.Define(fmt.Sprintf(`<domain type='test'><name>vm1</name><uuid>%s</uuid><memory>65536</memory><os><type>hvm</type></os><devices>`, aUUID)+
		disk("qcow2", image, "vda", "device='disk'")+disk("raw", raw, "sdb", "device='disk'")+disk("raw", "/nonexistent.iso", "sdc", "device='cdrom'")+
		disk("raw", "/proc/self/mem", "sdd", "device='cdrom'")+disk("qcow2", "/nonexistent.qcow2", "sde", "device='disk'")+"</devices></domain>", false); err != nil {
		t.Fatal(err)
	}
	p.recovered(false)
}

// The directory cannot be seen, the domain's disk is elsewhere: an image that was detached may need the point.
func TestDetachedImageNotThere(t *testing.T) {
	other := filepath.Join(t.TempDir(), "vda.qcow2")
	p := placeOf(t, t.TempDir(), other)
	p.qemuImg("create", "-q", "-f", "qcow2", other, "1M")
	r := p.run()
	r.pin.Runs.Device++
	if what, done, err := r.recover(true); done || err == nil {
		t.Errorf("%s: done %v", what, done)
	}
	r.pin.Runs.Device--
	if what, done, err := r.recover(true); !done || err != nil {
		t.Errorf("%s: done %v, %v", what, done, err)
	}
}

// An image of the directory was moved, and a symbolic link is in its place.
func TestLinkInTheDirectory(t *testing.T) {
	dir := t.TempDir()
	image, moved := filepath.Join(dir, "vda.qcow2"), filepath.Join(t.TempDir(), "vda.qcow2")
	p := placeOf(t, dir, image)
	p.qemuImg("create", "-q", "-f", "qcow2", moved, "1M")
	if err := os.Symlink(moved, image); err != nil {
		t.Fatal(err)
	}
	p.recovered(false)
}

// An image by a symbolic link is one.
func TestImageByLink(t *testing.T) {
	dir := t.TempDir()
	link, image := filepath.Join(dir, "link"), filepath.Join(t.TempDir(), "image")
	p := placeOf(t, dir, link)
	p.onServer(image, p.uri())
	if err := os.Symlink(image, link); err != nil {
		t.Fatal(err)
	}
	p.recovered(true)
}

// The images were copied, and the domain is on the copies: --abandon does not take the point from them.
func TestAbandonOfCopiedImages(t *testing.T) {
	dir, other := t.TempDir(), filepath.Join(t.TempDir(), "vda.qcow2")
	p := placeOf(t, dir, other)
	for _, path := range []string{filepath.Join(dir, "vda.qcow2"), other} {
		p.onServer(path, p.uri())
	}
	request := Request{}
	request.Domain, request.Dir = "vm1", dir
	_, err := Abandon(p.repo, p.host, request, func(Abandoned) (bool, error) { return true, nil })
	if err == nil {
		t.Error("the domain is abandoned")
	}
	p.wantPinned(true, fmt.Sprint(err))
}

// A restore was killed while it made its images; a domain of the same UUID, which is defined since on other
// ones, is not the one that was restored.
func TestKilledBesideAnotherDomain(t *testing.T) {
	dir, other := t.TempDir(), filepath.Join(t.TempDir(), "old.qcow2")
	p := placeOf(t, dir, other)
	p.qemuImg("create", "-q", "-f", "qcow2", other, "1M")
	marker := `{"comment":"","names":["vda.qcow2","vda.qcow2.partial","vm1.xml"]}`
	if err := os.WriteFile(restore.MarkerOf(dir), []byte(marker), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "vda.qcow2.partial"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	said := p.recovered(false)
	if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
		t.Errorf("left %v, %v: %s", left, err, said)
	}
	if _, err := p.host.DomainByUUID(aUUID); err != nil {
		t.Errorf("the other domain: %v", err)
	}
}

// Only an image that the restore has made, and that nobody has written anew, gets the point as its backing
// file again.
func TestGiveBack(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "vda.qcow2")
	for name, tt := range map[string]struct {
		make func(p *place)
		want bool
	}{
		"as QEMU has left it": {func(p *place) { marked(t, image, markOf(p.pin.Runs.Socket)+"vda", 1<<20) }, true},
		"compacted": {func(p *place) {
			marked(t, image+"0", markOf(p.pin.Runs.Socket)+"vda", 1<<20)
			p.qemuImg("convert", "-f", "qcow2", "-O", "qcow2", image+"0", image)
		}, false},
		"another image of its name": {func(p *place) { p.qemuImg("create", "-q", "-f", "qcow2", image, "1M") }, false},
	} {
		p := placeOf(t, dir, image)
		tt.make(p)
		r := p.run()
		pulls, err := r.pulls()
		if err != nil {
			t.Fatal(err)
		}
		if (len(pulls) == 1) != tt.want {
			t.Errorf("%s: %d pulls", name, len(pulls))
		}
		if err := r.giveBack(image); (err == nil) != tt.want {
			t.Errorf("%s: %v", name, err)
		}
		if backing, err := backingOf(image); (backing == p.uri()) != tt.want || err != nil {
			t.Errorf("%s: the backing file is %q, %v", name, backing, err)
		}
	}
}

// The socket of a server that was killed goes with the pin.
func TestDeadSocketIsRemoved(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "vda.qcow2")
	p := placeOf(t, dir, image)
	p.qemuImg("create", "-q", "-f", "qcow2", image, "1M")
	deadSocket(t, p.pin.Runs.Socket)
	r := p.run()
	if err := r.server.removeDead(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(p.pin.Runs.Socket); !os.IsNotExist(err) {
		t.Errorf("the socket: %v", err)
	}
}

// deadSocket makes a socket that nobody listens on.
func deadSocket(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// A restore that was killed is not begun beside: its domain has what its guest has written.
func TestUnderWay(t *testing.T) {
	dir := t.TempDir()
	p := placeOf(t, dir, "")
	r := newRun(p.repo, p.host, Request{})
	r.Domain = "vm1"
	for _, tt := range []struct {
		dir, name string
		refused   bool
	}{{dir, "", true}, {"", "vm1", true}, {t.TempDir(), "vm2", false}} {
		err := r.notUnderWay(tt.dir, tt.name)
		if (err != nil) != tt.refused || tt.refused && !strings.Contains(fail.HintOf(err), dir+" --resume") {
			t.Errorf("to %q as %q: %v, hint %q", tt.dir, tt.name, err, fail.HintOf(err))
		}
	}
	if err := r.findIn(t.TempDir()); !fail.Is(err, fail.NotFound) || !strings.Contains(fail.HintOf(err), dir+" --resume") {
		t.Errorf("--resume elsewhere: %v, hint %q", err, fail.HintOf(err))
	}
}
