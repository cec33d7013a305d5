package hypervisor

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/xml"
)

// TestJobAndCheckpoint walks through a full and an incremental job on a real domain.
func TestJobAndCheckpoint(t *testing.T) {
	g := newGuest(t)
	if err := g.begin(t, g.job("vda", "vdb", "vdc"), checkpoint("check1", "vda", "vdb")); err != nil {
		t.Fatal(err)
	}
	wantJob(t, g, xml.Job{Socket: filepath.Join(g.dir, "nbd.sock"), Disks: []xml.JobDisk{
		{Target: "vda", Export: "vda", Scratch: filepath.Join(g.dir, "vda.scratch")},
		{Target: "vdb", Export: "vdb", Scratch: filepath.Join(g.dir, "vdb.scratch")},
		{Target: "vdc", Export: "vdc", Scratch: filepath.Join(g.dir, "vdc.scratch")},
	}})
	g.write(t, 0, "write -P 0x41 0 1M")
	wantStats(t, g)
	g.end(t)
	wantNoJob(t, g)

	wantSizes(t, g, map[string]int64{"check1 vda": 1 << 20, "check1 vdb": 0})
	if err := g.begin(t, g.job("vda:check1", "vdc"), checkpoint("check2", "vda")); err != nil {
		t.Fatal(err)
	}
	wantJob(t, g, xml.Job{Socket: filepath.Join(g.dir, "nbd.sock"), Disks: []xml.JobDisk{
		{Target: "vda", Export: "vda", Bitmap: "backup-vda", Scratch: filepath.Join(g.dir, "vda.scratch"), Incremental: true},
		{Target: "vdc", Export: "vdc", Scratch: filepath.Join(g.dir, "vdc.scratch")},
	}})
	g.end(t)
	g.end(t) // no error where there is none
	wantSizes(t, g, map[string]int64{"check1 vda": 1 << 20, "check1 vdb": 0, "check2 vda": 0})
	wantNoFiles(t, g, "nbd.sock")
}

// TestJobEndsWithGuest: the guest is destroyed in mid-job.
func TestJobEndsWithGuest(t *testing.T) {
	g := newGuest(t)
	if err := g.begin(t, g.job("vda")); err != nil {
		t.Fatal(err)
	}
	virsh(t, "destroy", g.Name())
	wantNoJob(t, g)
	g.end(t)
	wantErr(t, "begin", g.begin(t, g.job("vda")), ErrNotRunning, "inactive domain")
	wantErr(t, "resume", g.Resume(), ErrNotRunning, "not running")
	if job, err := g.RunningJob(); job != "" || err != nil {
		t.Errorf("RunningJob = %q, %v", job, err)
	}
}

// TestCheckpoints: delete, delete the record only, define the record again, with and without a bitmap behind it.
func TestCheckpoints(t *testing.T) {
	g := newGuest(t)
	for _, name := range []string{"check1", "check2", "check3"} {
		if err := g.begin(t, g.job("vda"), checkpoint(name, "vda")); err != nil {
			t.Fatal(err)
		}
		g.end(t)
	}
	doc, err := g.CheckpointXML("check3")
	must(t, err)
	must(t, g.DeleteCheckpoint("check2", false))
	wantErr(t, "delete again", g.DeleteCheckpoint("check2", false), ErrNoCheckpoint, "check2")
	must(t, g.DeleteCheckpoint("check3", true))
	wantCheckpoints(t, g, "check1")

	wantErr(t, "the bitmap is still there", g.begin(t, g.job("vda"), checkpoint("check3", "vda")), ErrCheckpointExists, "check3")
	wantNoJob(t, g)
	redefine := strings.ReplaceAll(doc, "<name>check2</name>", "<name>check1</name>")
	must(t, g.RedefineCheckpoint(redefine, true))
	wantCheckpoints(t, g, "check1", "check3")
	wantErr(t, "name taken", g.begin(t, g.job("vda"), checkpoint("check3", "vda")), ErrCheckpointExists, "check3")

	lost := strings.ReplaceAll(redefine, "check3", "check4")
	wantErr(t, "validate", g.RedefineCheckpoint(lost, true), ErrCheckpointInconsistent, "check4")
	must(t, g.RedefineCheckpoint(lost, false))
	wantSizes(t, g, map[string]int64{"check1 vda": 0, "check3 vda": 0, "check4 vda": -1})
	wantErr(t, "incremental", g.begin(t, g.job("vda:check4")), ErrCheckpointInconsistent, "check4")
	wantErr(t, "delete without a bitmap", g.DeleteCheckpoint("check4", false), ErrMayLackBitmap, "'check4' not found in backing chain of 'vda'")
	for _, target := range []string{"vdb", "vdc", "sda"} { // without the bitmap, raw, empty
		doc := strings.ReplaceAll(lost, "vda", target)
		must(t, g.RedefineCheckpoint(doc, false))
		wantErr(t, "delete of "+target, g.DeleteCheckpoint("check4", false), ErrMayLackBitmap, "'check4' not found in backing chain of '"+target+"'")
		wantErr(t, "the bitmap of "+target, g.RedefineCheckpoint(doc, true), ErrCheckpointInconsistent, "check4")
	}
	must(t, g.RedefineCheckpoint(redefine, true)) // listed already: nothing changes
	wantCheckpoints(t, g, "check1", "check3", "check4")
	must(t, g.DeleteCheckpoint("check4", true))

	doc, err = g.CheckpointSizes("check1")
	if err != nil || !strings.Contains(doc, "size='0'") {
		t.Errorf("sizes of check1: %s, %v", doc, err)
	}
	virsh(t, "destroy", g.Name())
	_, err = g.CheckpointSizes("check1")
	wantErr(t, "sizes while off", err, ErrNotRunning, "not running")
	wantErr(t, "delete while off", g.DeleteCheckpoint("check1", false), ErrNotRunning, "inactive")
	wantCheckpoints(t, g, "check1", "check3")
}

// TestBackupBeginErrors: each way in which a job cannot begin, the kind of error, and that neither job nor checkpoint stays.
func TestBackupBeginErrors(t *testing.T) {
	g := newGuest(t)
	closed := filepath.Join(g.dir, "closed") // root's own
	must(t, os.Mkdir(closed, 0o700))
	must(t, os.WriteFile(filepath.Join(g.dir, "taken"), nil, 0o600))
	scratch := func(path string) xml.Backup {
		job := g.job("vda")
		job.Disks[0].Scratch = filepath.Join(g.dir, path)
		return job
	}
	socket := func(path string) xml.Backup {
		job := g.job("vda")
		job.Socket = filepath.Join(g.dir, path)
		return job
	}
	for _, test := range []struct {
		name  string
		job   xml.Backup
		disks string // of the checkpoint
		kind  error
		text  string
	}{
		{"scratch directory not searchable", scratch("closed/x"), "vda", ErrScratch, "Permission denied"},
		{"no scratch directory", scratch("none/x"), "vda", ErrScratch, "No such file or directory"},
		{"scratch file is no image", scratch("taken"), "vda", ErrScratch, "qcow2"},
		{"socket directory not writable", socket("closed/x"), "vda", ErrSocket, "Permission denied"},
		{"no socket directory", socket("none/x"), "vda", ErrSocket, "No such file or directory"},
		{"socket path too long", socket(strings.Repeat("x", 108)), "vda", ErrSocket, "too long"},
		{"checkpoint on a raw disk", g.job("vda", "vdc"), "vda vdc", ErrBitmap, "storage type raw"},
		{"no such disk", g.job("vdz"), "vda", ErrBitmap, "no disk named 'vdz'"}, // the code of a refused bitmap
		{"no such base", g.job("vda:none"), "vda", ErrNoCheckpoint, "'none'"},
	} {
		err := g.begin(t, test.job, checkpoint("check1", strings.Fields(test.disks)...))
		wantErr(t, test.name, err, test.kind, test.text)
		_, err = g.CheckpointXML("check1")
		wantErr(t, test.name+": checkpoint", err, ErrNoCheckpoint, "check1")
		wantNoJob(t, g)
	}
	// libvirtd is root and gives the file to QEMU: the directory need not be writable for QEMU's user.
	must(t, os.Chmod(closed, 0o755))
	must(t, g.begin(t, scratch("closed/x"), checkpoint("check1", "vda")))
	g.end(t)
	wantErr(t, "disk without that bitmap", g.begin(t, g.job("vda:check1", "vdb:check1")), ErrCheckpointInconsistent, "'vdb'")
	wantErr(t, "raw disk", g.begin(t, g.job("vda:check1", "vdc:check1")), ErrCheckpointInconsistent, "'vdc'")
}

// TestBusy: the second job waits 30 s for the first one; the error names the first, which is still there.
func TestBusy(t *testing.T) {
	g := newGuest(t)
	must(t, g.begin(t, g.job("vda")))
	if job, err := g.RunningJob(); job != "backup" || err != nil {
		t.Errorf("RunningJob = %q, %v", job, err)
	}
	wantErr(t, "second job", g.begin(t, g.job("vdb")), ErrBusy, "cannot acquire state change lock")
	if _, err := g.BackupJob(); err != nil {
		t.Errorf("the first job: %v", err)
	}
	g.end(t)
}

func TestState(t *testing.T) {
	g := newGuest(t)
	wantState := func(want State) {
		t.Helper()
		if got, err := g.State(); got != want || err != nil {
			t.Errorf("state %v, %v, want %v", got, err, want)
		}
	}
	wantState(Paused)
	if forIO, err := g.PausedForIO(); forIO || err != nil {
		t.Errorf("PausedForIO = %v, %v", forIO, err)
	}
	must(t, g.Resume())
	must(t, g.Resume()) // runs already
	wantState(Running)
	capacity, allocation, err := g.Allocation("vda")
	if capacity != 64<<20 || allocation <= 0 || err != nil {
		t.Errorf("Allocation = %d, %d, %v", capacity, allocation, err)
	}
	if _, _, err := g.Allocation("vdz"); err == nil {
		t.Error("a disk that does not exist has an allocation")
	}
	if persistent, err := g.Persistent(); !persistent || err != nil {
		t.Errorf("Persistent = %v, %v", persistent, err)
	}
	wantDocuments(t, g)
	virsh(t, "destroy", g.Name())
	wantState(ShutOff)
	if active, err := g.Active(); active || err != nil {
		t.Errorf("Active = %v, %v", active, err)
	}
}

// wantDocuments compares the live and the inactive XML.
func wantDocuments(t *testing.T, g guest) {
	t.Helper()
	live, err := g.XML()
	must(t, err)
	inactive, err := g.InactiveXML()
	must(t, err)
	if !strings.Contains(live, "<domain type='qemu' id='") || strings.Contains(inactive, "<domain type='qemu' id='") {
		t.Error("the live XML has no id, or the inactive XML has one")
	}
	domain, err := xml.ParseDomain(live)
	must(t, err)
	if domain.Name != g.Name() || domain.UUID != g.UUID() || len(domain.Disks) != 4 {
		t.Errorf("domain %+v", domain)
	}
}

// TestFreezeWithoutAgent: the channel exists, and no agent answers.
func TestFreezeWithoutAgent(t *testing.T) {
	g := newGuest(t)
	_, err := g.Freeze(2 * time.Second)
	wantErr(t, "freeze a paused guest", err, ErrAgent, "not running")
	must(t, g.Resume())
	start := time.Now()
	_, err = g.Freeze(2 * time.Second)
	wantErr(t, "freeze", err, ErrAgent, "not connected")
	_, err = g.Thaw(2 * time.Second)
	wantErr(t, "thaw", err, ErrAgent, "not connected")
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
	virsh(t, "destroy", g.Name())
	_, err = g.Freeze(time.Second)
	wantErr(t, "freeze nothing", err, ErrNotRunning, "not running")
}

func TestNoDomain(t *testing.T) {
	g := newGuest(t)
	_, err := g.conn.Domain("vbtest-hyp-none")
	wantErr(t, "look up", err, ErrNoDomain, "vbtest-hyp-none")
	names, err := g.conn.Domains()
	if !slices.Contains(names, g.Name()) || !slices.IsSorted(names) || err != nil {
		t.Errorf("Domains = %q, %v", names, err)
	}
	gone := &Domain{conn: g.conn, name: "gone", uuid: "00000000-0000-4000-8000-000000000000"}
	_, err = gone.XML()
	wantErr(t, "read", err, ErrNoDomain, "gone")
	wantErr(t, "begin", gone.BackupBegin("", ""), ErrNoDomain, "gone")
	if err := gone.EndBackup(t.Context()); err != nil {
		t.Errorf("the job of a domain that is gone: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantErr checks the kind of an error (nil: none of ours) and a part of its text, and that it is libvirt's.
func wantErr(t *testing.T, what string, err, kind error, text string) {
	t.Helper()
	var e *Error
	switch {
	case err == nil:
		t.Errorf("%s: no error", what)
	case !errors.As(err, &e):
		t.Errorf("%s: not an error of libvirt: %v", what, err)
	case e.Kind != kind || !strings.Contains(err.Error(), text):
		t.Errorf("%s: kind %v, %q, want kind %v, %q", what, e.Kind, err, kind, text)
	}
}

func wantJob(t *testing.T, g guest, want xml.Job) {
	t.Helper()
	doc, err := g.BackupJob()
	must(t, err)
	job, err := xml.ParseBackup(doc)
	if err != nil || job.Socket != want.Socket || !slices.Equal(job.Disks, want.Disks) {
		t.Errorf("job\n got %+v, %v\nwant %+v", job, err, want)
	}
}

func wantNoJob(t *testing.T, g guest) {
	t.Helper()
	if doc, err := g.BackupJob(); !errors.Is(err, ErrNoJob) {
		t.Errorf("a job is left: %s, %v", doc, err)
	}
	if stats, err := g.JobStats(); !errors.Is(err, ErrNoJob) {
		t.Errorf("a job is left: %+v, %v", stats, err)
	}
}

// wantStats checks the statistics of a job of three 64 MiB disks, of which 1 MiB was written meanwhile.
func wantStats(t *testing.T, g guest) {
	t.Helper()
	stats, err := g.JobStats()
	if err != nil || stats.Operation != "backup" || stats.TempTotal != 3*64<<20 || stats.TempUsed < 0 || stats.Elapsed <= 0 {
		t.Errorf("JobStats = %+v, %v", stats, err)
	}
}

func wantCheckpoints(t *testing.T, g guest, want ...string) {
	t.Helper()
	var names []string
	for _, c := range parsedCheckpoints(t, g, false) {
		names = append(names, c.Name)
	}
	if !slices.Equal(names, want) {
		t.Errorf("checkpoints %q, want %q", names, want)
	}
}

// wantSizes compares the size of each bitmap, by "checkpoint disk".
func wantSizes(t *testing.T, g guest, want map[string]int64) {
	t.Helper()
	for _, c := range parsedCheckpoints(t, g, true) {
		for _, disk := range c.Disks {
			key := c.Name + " " + disk.Target
			if size, listed := want[key]; listed != (disk.Bitmap != "") || listed && disk.Size != size {
				t.Errorf("%s: bitmap %q, size %d, want %d", key, disk.Bitmap, disk.Size, size)
			}
			delete(want, key)
		}
	}
	for key := range want {
		t.Errorf("%s is not listed", key)
	}
}

func parsedCheckpoints(t *testing.T, g guest, sizes bool) []xml.Checkpoint {
	t.Helper()
	docs, err := g.Checkpoints(sizes)
	must(t, err)
	var checkpoints []xml.Checkpoint
	for _, doc := range docs {
		c, err := xml.ParseCheckpoint(doc)
		must(t, err)
		checkpoints = append(checkpoints, c)
	}
	return checkpoints
}

func wantNoFiles(t *testing.T, g guest, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := os.Lstat(filepath.Join(g.dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
}
