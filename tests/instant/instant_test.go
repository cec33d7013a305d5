package instant

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// A domain that is gone with its disks runs again, under its name, and stands alone in the end; its
// backups go on.
func TestDomainIsBack(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.Redefine("<driver name='qemu' type='raw'", "<driver name='qemu' type='raw' rerror_policy='report'")
	s.BackUp(0, "inc")
	before := testdomain.Virsh(t, "dumpxml", s.Name, "--inactive")
	testdomain.Virsh(t, "undefine", s.Name, "--checkpoints-metadata")
	for _, d := range s.Disks {
		if err := os.Remove(d.Source); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(testdomain.TempDir(t), "new", "vm")
	r := &restored{Site: s, Domain: s.Other(s.Name, s.UUID, dir), dir: dir, repository: testsite.Listing(t, s.Repo)}
	got := result(t, s.Program.Must(t, nil, "--json", "restore", s.Name, "--instant", "--to", dir))
	if got.Name != s.Name || got.UUID != s.UUID || !got.Started || got.RunningSeconds <= 0 || got.Seconds < got.RunningSeconds || len(got.Disks) != 2 || got.Disks[0].DataBytes < 5*mib {
		t.Errorf("the result is %+v", got)
	}
	if s.State() != "running" {
		t.Errorf("the domain is %s", s.State())
	}
	changed := strings.NewReplacer(s.Disk("vda").Source, filepath.Join(dir, "vda.qcow2"), s.Disk("vdb").Source, filepath.Join(dir, "vdb.qcow2"), "type='raw' rerror", "type='qcow2' rerror")
	if after, want := testdomain.Virsh(t, "dumpxml", s.Name, "--inactive"), changed.Replace(before); after != want {
		t.Errorf("it was to be\n%s\nand is\n%s", want, after)
	}
	r.wantNothingLeft("")
	for _, kind := range []string{"auto", "auto"} {
		if r := s.Program.Run(t, kind, s.Name); r.Code != 0 && r.Code != 3 {
			t.Errorf("%s: exit %d", kind, r.Code)
		}
	}
	s.Destroy()
	for target, truth := range s.Points[2].Truth {
		testdomain.Same(t, filepath.Join(dir, target+".qcow2"), "qcow2", truth)
	}
}

// What the guest writes while its data comes home is kept, whatever is killed meanwhile: virtbackup, the
// server, QEMU, and all of them with the host.
func TestWritesMeanwhileAndKills(t *testing.T) {
	t.Parallel()
	r := newRestored(t, newSite(t))
	p := r.slow()
	all := []write{{3*mib + 4096, 70000, 0x61}, {15 * mib, 512, 0x62}}
	r.write(all...)

	r.killServer() // the pull fails, and goes on
	again := write{5*mib - 1000, 2000, 0x63}
	testsite.Await(t, "the server", 0, func() bool { return r.Domain.TryIO("vda", again.String()) == nil })
	all = append(all, again)
	killed(p)
	more := write{mib + 512, 512, 0x64} // reads what it does not cover
	r.write(more)
	all = append(all, more)
	if r.server() == 0 {
		t.Error("the server has ended with virtbackup")
	}

	p = r.Program.Start(t, r.resume("--limit-rate", slowly)...)
	r.awaitRunning(p)
	r.Refused(4, "another process is at work", "restore", r.Site.Name, "--to", r.dir, "--resume")
	r.Refused(4, "another process is at work", "restore", r.Site.Name, "--to", r.dir, "--abandon", "--yes")
	r.IO2("flush") // what a killed QEMU has not flushed may be lost
	r.Domain.Kill()
	if ended := p.Wait(); ended.Code != 1 || !strings.Contains(ended.Stderr, "has crashed, or was killed") || !strings.Contains(ended.Stderr, "--resume starts it") {
		t.Errorf("exit %d after QEMU was killed", ended.Code)
	}
	r.Refused(1, "virtbackup restore "+r.Site.Name+" --instant --to "+r.dir+" --resume", "auto", r.Domain.Name)
	p = r.Program.Start(t, r.resume("--limit-rate", slowly)...)
	r.awaitRunning(p)
	more = write{9 * mib, 3000, 0x65}
	r.write(more)
	all = append(all, more)
	r.IO2("flush")

	killed(p) // the host goes down
	r.killServer()
	r.Domain.Kill()
	socket := r.pin().Runs.Socket
	got := result(t, r.Program.Must(t, nil, r.resume()...))
	if got.Name != r.Domain.Name || got.Dir != r.dir || got.Point != "check2" || got.Time.IsZero() || len(got.Disks) != 2 || got.Disks[0].DataBytes < 5*mib {
		t.Errorf("the result is %+v", got)
	}
	r.wantNothingLeft(socket)
	r.wantAlone(all...)
}

// IO2 is an I/O of the domain that was restored, on vda.
func (r *restored) IO2(command string) {
	r.T.Helper()
	r.Domain.IO("vda", command)
}

// SIGTERM leaves the domain running, and says how to go on.
func TestSignal(t *testing.T) {
	t.Parallel()
	r := newRestored(t, newSite(t))
	p := r.slow()
	p.Signal(syscall.SIGTERM)
	ended := p.Wait()
	if ended.Code != 128+int(syscall.SIGTERM) || !strings.Contains(ended.Stderr, "goes on running") || !strings.Contains(ended.Stderr, "--resume") {
		t.Errorf("exit %d: %s", ended.Code, ended.Stderr)
	}
	if r.Domain.State() != "running" {
		t.Errorf("the domain is %s", r.Domain.State())
	}
	r.Recovered(3)
	r.wantPruneKeeps()
	r.Program.Must(t, nil, r.resume()...)
	r.wantNothingLeft("")
	r.wantAlone()
}

// wantPruneKeeps sees that prune leaves what the domain runs from.
func (r *restored) wantPruneKeeps() {
	r.T.Helper()
	run := r.Program.Run(r.T, "prune", r.Site.Name, "--remove", "check1")
	if run.Code == 0 || !strings.Contains(run.Stderr, "pinned") {
		r.T.Errorf("prune: exit %d: %s", run.Code, run.Stderr)
	}
}

// --abandon takes all away; without an answer it takes nothing.
func TestAbandon(t *testing.T) {
	t.Parallel()
	r := newRestored(t, newSite(t))
	p := r.slow()
	r.write(write{0, 4096, 0x71})
	killed(p)
	socket := r.pin().Runs.Socket
	abandon := []string{"restore", r.Site.Name, "--to", r.dir, "--abandon"}
	r.Refused(2, "asks before", abandon...)
	if r.Domain.State() != "running" || r.pin() == nil {
		t.Error("the domain does not run any more")
	}
	r.Program.Must(t, nil, append(abandon, "--yes")...)
	if _, err := os.Lstat(r.dir); !r.gone() || err == nil {
		t.Errorf("left: domain %v, directory %v", !r.gone(), err == nil)
	}
	r.wantNothingLeft(socket)
	r.Refused(6, "no domain runs from a point", append(abandon, "--yes")...)
}

// A part of the point that is damaged: the domain runs as far as it gets, no other byte is read, and it
// can be taken away.
func TestDamage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	image := s.Image(s.Points[1].Manifest, "vda")
	info, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	testsite.Flip(t, image, info.Size()/2)
	r := newRestored(t, s)
	ended := r.Program.Run(t, r.begin()...)
	for _, words := range []string{"cannot be completed", "disk vda", "check2/vda.qcow2", "--abandon"} {
		if ended.Code != 5 || !strings.Contains(ended.Stderr, words) {
			t.Errorf("exit %d, no %q", ended.Code, words)
		}
	}
	if r.Domain.State() == "shut" || r.pin() == nil {
		t.Error("the domain does not run any more")
	}
	r.Program.Must(t, []int{5}, r.resume()...)
	testsite.Flip(t, image, info.Size()/2) // repaired
	r.Program.Must(t, nil, r.resume()...)
	r.wantNothingLeft("")
	r.wantAlone()
}

// A server that cannot be started, or hangs, is tried again: the repository is away for a while.
func TestServerIsAway(t *testing.T) {
	t.Parallel()
	r := newRestored(t, newSite(t))
	p := r.slow()
	if err := syscall.Kill(r.server(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r.repositoryAway(func() {
		r.killServer()
		time.Sleep(3 * time.Second)
	})
	testsite.Await(t, "the server", 100*time.Millisecond, func() bool { return r.server() != 0 })
	late := write{8 * mib, 512, 0x77}
	testsite.Await(t, "a write", 100*time.Millisecond, func() bool { return r.Domain.TryIO("vda", late.String()) == nil })
	if err := syscall.Kill(r.server(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	p.Signal(syscall.SIGTERM) // noticed beside a server that hangs
	if ended := p.Wait(); ended.Code != 128+int(syscall.SIGTERM) || !strings.Contains(ended.Stderr, "tried again") {
		t.Errorf("exit %d", ended.Code)
	}
	if err := syscall.Kill(r.server(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	r.Program.Must(t, nil, r.resume()...)
	r.wantNothingLeft("")
	r.wantAlone(late)
}

// repositoryAway lets the repository be away.
func (r *restored) repositoryAway(meanwhile func()) {
	r.T.Helper()
	if err := os.Rename(r.Repo, r.Repo+".away"); err != nil {
		r.T.Fatal(err)
	}
	meanwhile()
	if err := os.Rename(r.Repo+".away", r.Repo); err != nil {
		r.T.Fatal(err)
	}
}

// A disk that was attached while the domain ran is in the point, and not in its configuration: it is not
// made, as nothing would bring its data home.
func TestDiskThatIsNotConfigured(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.Start()
	extra := filepath.Join(s.Dir, "vdc.qcow2")
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", extra, "4M")
	testdomain.Virsh(t, "attach-disk", s.Name, extra, "vdc", "--live", "--subdriver", "qcow2")
	s.BackUp(0, "full")
	s.Destroy()
	r := newRestored(t, s)
	ended := r.Program.Run(t, r.begin()...)
	if ended.Code != 3 || !strings.Contains(ended.Stderr, "disk vdc is in the point, and not in the domain's configuration") {
		t.Errorf("exit %d", ended.Code)
	}
	if _, err := os.Lstat(filepath.Join(r.dir, "vdc.qcow2")); err == nil {
		t.Error("an image was made for a disk that the domain has not")
	}
	r.wantNothingLeft("")
}

// Bad input is refused before anything is changed.
func TestRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	r := newRestored(t, s)
	other := testdomain.Define(t, testdomain.Disk{Target: "vda", Size: mib})
	full := testdomain.TempDir(t)
	testsite.WriteFile(t, filepath.Join(full, s.Name+".xml"), "mine")
	before := testsite.Listing(t, full)
	small := testsite.Mounted(t, "ext4", 8)
	for _, tt := range []struct {
		code  int
		words string
		args  []string
	}{
		{1, "it is defined already", []string{s.Name, "--to", r.dir}},
		{1, "there is another domain " + other.Name, []string{s.Name, "--to", r.dir, "--name", other.Name}},
		{2, "is not empty", []string{s.Name, "--to", full, "--name", r.Domain.Name}},
		{6, "check9", []string{s.Name + "@check9", "--to", r.dir, "--name", r.Domain.Name}},
		{1, "too little space", []string{s.Name, "--to", filepath.Join(small, "vm"), "--name", r.Domain.Name}},
		{6, "no domain runs from a point", []string{s.Name, "--to", r.dir, "--resume"}},
		{2, "exclude each other", []string{s.Name, "--to", r.dir, "--define"}},
		{2, "needs --to", []string{s.Name}},
	} {
		r.Refused(tt.code, tt.words, append([]string{"restore", "--instant"}, tt.args...)...)
	}
	if after := testsite.Listing(t, full); after != before {
		t.Errorf("the directory was %s, and is %s", before, after)
	}
	r.wantNothingLeft("")
	if _, err := os.Lstat(r.dir); err == nil || !r.gone() {
		t.Error("something is left")
	}
}

// A snapshot that somebody makes meanwhile hides the image that needs the point: nothing is given up
// until the image is the disk's again.
func TestSnapshotMeanwhile(t *testing.T) {
	t.Parallel()
	r := newRestored(t, newSite(t))
	killed(r.slow())
	testdomain.Virsh(t, "blockjob", r.Domain.Name, "vda", "--abort")
	over := filepath.Join(filepath.Dir(r.dir), "over.qcow2")
	testdomain.Virsh(t, "snapshot-create-as", r.Domain.Name, "--disk-only", "--no-metadata", "--atomic", "--diskspec", "vda,file="+over, "--diskspec", "vdb,snapshot=no")
	write := write{4 * mib, 4096, 0x66}
	r.write(write)
	r.Recovered(3)
	p := r.Program.Start(t, r.resume()...)
	testsite.Await(t, "the pull of vdb", 100*time.Millisecond, func() bool {
		return testdomain.HeaderOf(t, filepath.Join(r.dir, "vdb.qcow2")).BackingFileOffset == 0
	})
	time.Sleep(time.Second)
	if r.pin() == nil || r.server() == 0 {
		t.Fatal("the point was given up, which the image below the snapshot needs")
	}
	testdomain.Virsh(t, "blockcommit", r.Domain.Name, "vda", "--shallow", "--active", "--pivot", "--wait")
	if ended := p.Wait(); ended.Code != 0 || !strings.Contains(ended.Stderr, "has another image") || !strings.Contains(ended.Stderr, "blockcommit") {
		t.Errorf("exit %d", ended.Code)
	}
	r.wantNothingLeft("")
	r.wantAlone(write)
}
