package instant

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// What people do with a domain while it runs from a point, and nobody supervises it, takes neither its
// images nor the point from it.

// left is a domain that runs from the point, without a supervisor.
func left(t *testing.T) *restored {
	t.Helper()
	r := newRestored(t, newSite(t))
	killed(r.slow())
	return r
}

// wantKept sees that the point stays pinned and served, and that the images are there.
func (r *restored) wantKept(images ...string) {
	r.T.Helper()
	if r.pin() == nil || r.server() == 0 {
		r.T.Error("the point is not pinned and served any more")
	}
	for _, image := range images {
		if _, err := os.Lstat(image); err != nil {
			r.T.Error(err)
		}
	}
}

// elsewhere is a directory that QEMU can use.
func elsewhere(t *testing.T) string {
	t.Helper()
	dir := testdomain.TempDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (r *restored) image(target string) string { return filepath.Join(r.dir, target+".qcow2") }

// defineAs changes the definition of the domain, which is shut off.
func (r *restored) defineAs(change func(doc string) string) {
	r.T.Helper()
	path := filepath.Join(testdomain.TempDir(r.T), "domain.xml")
	testsite.WriteFile(r.T, path, change(testdomain.Virsh(r.T, "dumpxml", r.Domain.Name, "--inactive")))
	testdomain.Virsh(r.T, "undefine", r.Domain.Name)
	testdomain.Virsh(r.T, "define", path)
}

// Images below a snapshot elsewhere still need the point.
func TestSnapshotElsewhere(t *testing.T) {
	t.Parallel()
	r := left(t)
	testdomain.Virsh(t, "blockjob", r.Domain.Name, "vda", "--abort")
	dir := elsewhere(t)
	testdomain.Virsh(t, "snapshot-create-as", r.Domain.Name, "s1", "--disk-only", "--no-metadata",
		"--diskspec", "vda,file="+dir+"/vda.s1", "--diskspec", "vdb,file="+dir+"/vdb.s1")
	r.Recovered(3)
	r.wantKept(r.image("vda"), r.image("vdb"))
	p := r.Program.Start(t, r.resume()...) // the snapshots are no images of the restore: nothing is pulled into them
	time.Sleep(3 * time.Second)
	p.Signal(syscall.SIGTERM)
	if ended := p.Wait(); ended.Code != 143 || !strings.Contains(ended.Stderr, "disk vda of domain "+r.Domain.Name+" has another image") || !strings.Contains(ended.Stderr, "disk vdb") {
		t.Errorf("exit %d", ended.Code)
	}
	r.wantKept(r.image("vda"), r.image("vdb"))
	r.Program.Must(t, nil, "restore", r.Site.Name, "--to", r.dir, "--abandon", "--yes")
	r.wantNothingLeft("")
}

// A domain that is undefined, or defined anew with another UUID, has run: what it wrote stays.
func TestUndefined(t *testing.T) {
	t.Parallel()
	r := left(t)
	r.Domain.Destroy()
	doc := testdomain.Virsh(t, "dumpxml", r.Domain.Name, "--inactive")
	testdomain.Virsh(t, "undefine", r.Domain.Name)
	r.Recovered(3)
	r.Refused(1, "libvirt has no domain with the UUID", "restore", r.Site.Name, "--to", r.dir, "--resume")
	r.wantKept(r.image("vda"), r.image("vdb"))

	_, after, _ := strings.Cut(doc, "<uuid>")
	uuid, _, _ := strings.Cut(after, "</uuid>")
	path := filepath.Join(testdomain.TempDir(t), "domain.xml")
	testsite.WriteFile(t, path, strings.Replace(doc, "<uuid>"+uuid+"</uuid>", "", 1))
	testdomain.Virsh(t, "define", path)
	testdomain.Virsh(t, "start", r.Domain.Name)
	r.Recovered(3)
	r.Refused(1, "libvirt has no domain with the UUID", "restore", r.Site.Name, "--to", r.dir, "--resume")
	r.Refused(1, "is not the one that was restored", "restore", r.Site.Name, "--to", r.dir, "--abandon", "--yes")
	r.wantKept(r.image("vda"), r.image("vdb"))

	r.Domain.Destroy()
	r.defineAs(func(string) string { return doc })
	r.Program.Must(t, nil, r.resume()...)
	r.wantNothingLeft("")
	r.wantAlone()
}

// Images that were moved still need the point, and are pulled where they are.
func TestMoved(t *testing.T) {
	t.Parallel()
	r := left(t)
	r.Domain.Destroy()
	dir := elsewhere(t)
	for _, target := range []string{"vda", "vdb"} {
		if err := os.Rename(r.image(target), filepath.Join(dir, target+".qcow2")); err != nil {
			t.Fatal(err)
		}
	}
	r.defineAs(func(doc string) string { return strings.ReplaceAll(doc, r.dir+"/", dir+"/") })
	r.Recovered(3)
	r.Refused(1, "is not in "+r.dir, "restore", r.Site.Name, "--to", r.dir, "--abandon", "--yes")
	r.wantKept()
	r.Program.Must(t, nil, r.resume()...)
	r.wantNothingLeft("")
	r.dir = dir
	r.wantAlone()
}

// A pin of another host is for that host.
func TestOtherHost(t *testing.T) {
	t.Parallel()
	r := left(t)
	for _, way := range [][]string{{"--resume"}, {"--abandon", "--yes"}} {
		args := append([]string{"--uts", "sh", "-c", `hostname another && exec "$0" "$@"`, testdomain.Binary(t), "--repo", r.Repo, "restore", r.Site.Name, "--to", r.dir}, way...)
		if out, err := exec.Command("unshare", args...).CombinedOutput(); err == nil || !strings.Contains(string(out), "no domain runs from a point") {
			t.Errorf("%v on another host: %v: %s", way, err, out)
		}
	}
	r.wantKept(r.image("vda"), r.image("vdb"))
	r.Program.Must(t, nil, r.resume()...)
}

// A plain restore to the directory of one that was killed is not touched.
func TestOtherRestoreThere(t *testing.T) {
	t.Parallel()
	r := newRestored(t, newSite(t))
	if run := r.faulty("VIRTBACKUP_FAULT=instant: pinned#1:kill").Run(t, r.begin()...); run.Code != 137 {
		t.Fatalf("exit %d", run.Code)
	}
	r.Program.Must(t, nil, "restore", r.Site.Name, "--to", r.dir)
	before := testsite.Listing(t, r.dir)
	r.Recovered(0)
	if after := testsite.Listing(t, r.dir); after != before {
		t.Errorf("the directory was\n%s\nand is\n%s", before, after)
	}
	r.wantNothingLeft("")
}

// A pin that somebody has made up removes no file.
func TestMadeUpPin(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	dir := testdomain.TempDir(t)
	victim := filepath.Join(dir, "victim")
	testsite.WriteFile(t, victim, "mine")
	testsite.WriteFile(t, victim+".log", "mine")
	before := testsite.Listing(t, dir)
	pin := keep.Pin{Format: manifest.Format, ID: "0123456789abcdef", Point: "check1", Host: host, Time: time.Now().UTC(),
		Runs: &keep.Runs{Name: "x", UUID: "11111111-2222-3333-4444-555555555555", Dir: "/nonexistent", Socket: victim}}
	data, err := digest.EncodeJSON(pin)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(s.Repo, s.Name, keep.PinsName), 0o700); err != nil {
		t.Fatal(err)
	}
	testsite.WriteFile(t, filepath.Join(s.Repo, s.Name, keep.PinsName, pin.ID+".json"), string(data))
	s.Program.Must(t, []int{5}, "recover", s.Name)
	if after := testsite.Listing(t, dir); after != before {
		t.Errorf("the files were\n%s\nand are\n%s", before, after)
	}
}
