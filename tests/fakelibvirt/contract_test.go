package fakelibvirt

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/xml"
)

func TestMain(m *testing.M) { testdomain.Main(m) }

// domain is one that the contract is about: disks vda and vdb of 1 MiB.
type domain struct {
	guest.Domain
	dir   string // QEMU may write to it
	write func(target string, offset, length int64)
	stop  func() // in order
	kill  func()
	start func()
}

func fake(t *testing.T) domain {
	d := new(Host).Define("vm1", 1<<20, "vda", "vdb")
	return domain{Domain: d, dir: t.TempDir(), stop: d.ShutDown, kill: d.Kill, start: d.Start, write: func(target string, offset, length int64) {
		if !d.Write(target, offset, slices.Repeat([]byte{0x41}, int(length))) {
			t.Fatalf("%s cannot be written", target)
		}
	}}
}

func libvirt(t *testing.T) domain {
	d := testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}, testdomain.Disk{Target: "vdb", Size: 1 << 20})
	conn, err := hypervisor.Connect(testdomain.URI)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	asked, err := guest.Libvirt(conn).Domain(d.Name)
	if err != nil {
		t.Fatal(err)
	}
	dir := testdomain.TempDir(t)
	if err := os.Chmod(dir, 0o777); err != nil { // for QEMU's socket
		t.Fatal(err)
	}
	return domain{Domain: asked, dir: dir, stop: d.Destroy, kill: d.Kill, start: d.Start,
		write: func(target string, offset, length int64) { d.Write(target, offset, length, 0x41) }}
}

// What runs, recoveries and releases rely on holds for libvirt and for the fake.
func TestContract(t *testing.T) {
	for name, side := range map[string]func(*testing.T) domain{"fake": fake, "libvirt": libvirt} {
		t.Run(name, func(t *testing.T) {
			for what, holds := range map[string]func(*testing.T, domain){
				"checkpoints": checkpointsHold, "redefined checkpoints": redefinedHold, "jobs": jobsHold,
				"a killed QEMU": killedHolds, "shut off": shutOffHolds,
			} {
				t.Run(what, func(t *testing.T) {
					t.Parallel()
					holds(t, side(t))
				})
			}
		})
	}
}

func checkpoint(name string) string {
	doc, err := xml.Checkpoint{Name: name, Description: "of a test", Disks: []xml.CheckpointDisk{{Target: "vda", Bitmap: name}, {Target: "vdb"}}}.Marshal()
	if err != nil {
		panic(err)
	}
	return doc
}

// job is a document of a job on vda, with a scratch file.
func (d domain) job(since string) string {
	scratch := filepath.Join(d.dir, "vda.scratch")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", scratch, "1M").CombinedOutput(); err != nil {
		panic(string(out))
	}
	doc, err := xml.Backup{Socket: filepath.Join(d.dir, "s.sock"), Leave: []string{"vdb"},
		Disks: []xml.BackupDisk{{Target: "vda", Incremental: since, Scratch: scratch}}}.Marshal()
	if err != nil {
		panic(err)
	}
	return doc
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("got %v, want %v", err, kind)
	}
}

// listed is what libvirt lists: names, their parents and the sizes of vda's bitmaps.
func (d domain) listed(t *testing.T) string {
	t.Helper()
	docs, err := d.Checkpoints(true)
	must(t, err)
	var all []string
	for _, doc := range docs {
		c, err := xml.ParseCheckpoint(doc)
		must(t, err)
		all = append(all, fmt.Sprintf("%s<%s %d", c.Name, c.Parent, c.Disks[0].Size))
	}
	return strings.Join(all, ", ")
}

func (d domain) wantListed(t *testing.T, want string) {
	t.Helper()
	if got := d.listed(t); got != want {
		t.Errorf("listed %q, want %q", got, want)
	}
}

func checkpointsHold(t *testing.T, d domain) {
	must(t, d.CreateCheckpoint(checkpoint("a")))
	want(t, d.CreateCheckpoint(checkpoint("a")), hypervisor.ErrCheckpointExists)
	d.write("vda", 0, 1)
	must(t, d.CreateCheckpoint(checkpoint("b")))
	d.write("vda", 128<<10, 64<<10)
	d.wantListed(t, "a< 131072, b<a 65536")
	_, err := d.CheckpointXML("x")
	want(t, err, hypervisor.ErrNoCheckpoint)
	want(t, d.DeleteCheckpoint("x", false), hypervisor.ErrNoCheckpoint)
	must(t, d.DeleteCheckpoint("a", false))
	d.wantListed(t, "b< 65536") // its bitmap is its own
	must(t, d.DeleteCheckpoint("b", true))
	d.wantListed(t, "")
	want(t, d.CreateCheckpoint(checkpoint("b")), hypervisor.ErrCheckpointExists) // its bitmap stayed
	must(t, d.CreateCheckpoint(checkpoint("a")))                                 // its bitmap went
}

func redefinedHold(t *testing.T, d domain) {
	must(t, d.CreateCheckpoint(checkpoint("a")))
	d.write("vda", 0, 1)
	doc, err := d.CheckpointXML("a")
	must(t, err)
	must(t, d.DeleteCheckpoint("a", true))
	d.write("vda", 64<<10, 1) // the bitmap goes on recording
	must(t, d.RedefineCheckpoint(doc, true))
	d.wantListed(t, "a< 131072")
	other := strings.ReplaceAll(doc, "<name>a</name>", "<name>x</name>")
	other = strings.ReplaceAll(strings.ReplaceAll(other, "bitmap='a'", "bitmap='x'"), `bitmap="a"`, `bitmap="x"`)
	want(t, d.RedefineCheckpoint(other, true), hypervisor.ErrCheckpointInconsistent)
	must(t, d.RedefineCheckpoint(other, false))
	want(t, d.DeleteCheckpoint("x", false), hypervisor.ErrMayLackBitmap)
	must(t, d.DeleteCheckpoint("x", true))
	d.wantListed(t, "a< 131072")
	gone, err := xml.Checkpoint{Name: "g", Created: time.Now(), Disks: []xml.CheckpointDisk{{Target: "vda", Bitmap: "g"}, {Target: "vdz", Bitmap: "g"}}}.Marshal()
	must(t, err)
	must(t, d.RedefineCheckpoint(gone, false)) // vdz was detached
	want(t, d.RedefineCheckpoint(gone, true), hypervisor.ErrCheckpointInconsistent)
	must(t, d.DeleteCheckpoint("g", true))
}

func jobsHold(t *testing.T, d domain) {
	_, err := d.BackupJob()
	want(t, err, hypervisor.ErrNoJob)
	doc := d.job("")
	if err := os.Remove(filepath.Join(d.dir, "vda.scratch")); err != nil {
		t.Fatal(err)
	}
	want(t, d.BackupBegin(doc, ""), hypervisor.ErrScratch)
	_, err = d.JobStats()
	want(t, err, hypervisor.ErrNoJob)
	must(t, d.EndBackup(t.Context())) // none is no error
	must(t, d.Settle(t.Context()))
	must(t, d.BackupBegin(d.job(""), checkpoint("a")))
	doc, err = d.BackupJob()
	must(t, err)
	job, err := xml.ParseBackup(doc)
	must(t, err)
	if len(job.Disks) != 1 || job.Disks[0].Export != "vda" || job.Disks[0].Bitmap != "" || job.Socket != filepath.Join(d.dir, "s.sock") {
		t.Errorf("the job is %+v", job)
	}
	must(t, d.ProveBackup([]string{"vda"}))
	want(t, d.ProveBackup([]string{"vda", "vdb"}), hypervisor.ErrNoJob)
	must(t, d.Settle(t.Context()))
	if name, err := d.RunningJob(); name != "backup" || err != nil {
		t.Errorf("the job is %q, %v", name, err)
	}
	d.write("vda", 0, 64<<10)
	if stats, err := d.JobStats(); err != nil || stats.TempUsed < 64<<10 {
		t.Errorf("%+v, %v", stats, err)
	}
	must(t, d.EndBackup(t.Context()))
	want(t, d.ProveBackup([]string{"vda"}), hypervisor.ErrNoJob)
	if _, err := os.Stat(filepath.Join(d.dir, "vda.scratch")); err != nil {
		t.Errorf("the scratch file, which libvirt has not made: %v", err)
	}
	d.wantListed(t, "a< 65536")
	_ = os.Remove(filepath.Join(d.dir, "s.sock"))
	want(t, d.BackupBegin(d.job("x"), ""), hypervisor.ErrNoCheckpoint)
	must(t, d.BackupBegin(d.job("a"), ""))
	doc, err = d.BackupJob()
	must(t, err)
	if job, err = xml.ParseBackup(doc); err != nil || job.Disks[0].Bitmap == "" {
		t.Errorf("the job is %+v, %v", job, err)
	}
	must(t, d.EndBackup(t.Context()))
}

func killedHolds(t *testing.T, d domain) {
	must(t, d.CreateCheckpoint(checkpoint("a")))
	before, err := d.RunID()
	must(t, err)
	d.write("vda", 0, 1)
	d.stop()
	d.start()
	if after, err := d.RunID(); err != nil || after == before {
		t.Errorf("run %d, then %d, %v", before, after, err)
	}
	d.wantListed(t, "a< 65536")
	must(t, d.CreateCheckpoint(checkpoint("b"))) // in memory only
	d.kill()
	d.start()
	d.wantListed(t, "a< -1, b<a -1")
	want(t, d.BackupBegin(d.job("a"), ""), hypervisor.ErrCheckpointInconsistent)
	must(t, d.DeleteCheckpoint("a", false)) // broken, and deleted like a good one
	want(t, d.DeleteCheckpoint("b", false), hypervisor.ErrMayLackBitmap)
	must(t, d.DeleteCheckpoint("b", true))
	must(t, d.CreateCheckpoint(checkpoint("b")))
	d.wantListed(t, "b< 0")
}

func shutOffHolds(t *testing.T, d domain) {
	must(t, d.CreateCheckpoint(checkpoint("a")))
	d.kill()
	if state, err := d.State(); err != nil || state != hypervisor.ShutOff {
		t.Errorf("it is %v, %v", state, err)
	}
	if why, err := d.WhyShutOff(); err != nil || why == "" {
		t.Errorf("why: %q, %v", why, err)
	}
	if id, err := d.RunID(); err != nil || id != 0 {
		t.Errorf("run %d, %v", id, err)
	}
	for what, err := range map[string]error{
		"begin": d.BackupBegin(d.job(""), ""), "create": d.CreateCheckpoint(checkpoint("b")),
		"delete": d.DeleteCheckpoint("a", false), "resume": d.Resume(),
	} {
		if !errors.Is(err, hypervisor.ErrNotRunning) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := d.BackupJob()
	want(t, err, hypervisor.ErrNoJob)
	d.wantListed(t, "a< -1")
	must(t, d.DeleteCheckpoint("a", true))
	d.wantListed(t, "")
}
