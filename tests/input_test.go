package tests

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// rejection is how a run has to end that cannot be done.
type rejection struct {
	code        int
	error, hint string // what the error and the hint have to say
}

// rejects runs what must fail, with one clear error and a hint, and change
// nothing; dirs are further directories that it must leave alone.
func (s *site) rejects(want rejection, args []string, dirs ...string) testdomain.Result {
	s.t.Helper()
	before := s.everything(dirs)
	r := s.program.Must(s.t, []int{want.code}, args...)
	s.wantRejected(r, want)
	if after := s.everything(dirs); after != before {
		s.t.Errorf("it has changed something: before\n%s\nafter\n%s", before, after)
	}
	return r
}

func (s *site) wantRejected(r testdomain.Result, want rejection) {
	s.t.Helper()
	if r.Stdout != "" {
		s.t.Errorf("standard output: %s", r.Stdout)
	}
	message, hint, _ := strings.Cut(r.Stderr, "\nhint: ")
	if lines := "\n" + r.Stderr; strings.Count(lines, "\nerror: ") != 1 || strings.Count(lines, "\nhint: ") != 1 {
		s.t.Error("not one error with one hint")
	}
	_, message, _ = strings.Cut("\n"+message, "\nerror: ")
	if !strings.Contains(message, want.error) || !strings.Contains(hint, want.hint) {
		s.t.Errorf("it does not say %q, hint %q", want.error, want.hint)
	}
}

// everything is what a run that fails must leave as it was.
func (s *site) everything(dirs []string) string {
	s.t.Helper()
	text := s.state()
	for _, dir := range append([]string{s.repo}, dirs...) {
		text += "\n" + dir + ":" + listing(s.t, dir)
	}
	return text
}

// listing names every file below dir with its size; the content of a lock file
// tells who has it and is nobody's business afterwards.
func listing(t *testing.T, dir string) string {
	t.Helper()
	text := ""
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.Name() == ".mark-lost" {
			return nil
		}
		info, err := e.Info()
		if err == nil && !e.IsDir() && e.Name() != "lock" {
			text += fmt.Sprintf(" %s(%d)", path, info.Size())
		} else {
			text += " " + path
		}
		return err
	})
	if os.IsNotExist(err) {
		return " absent"
	}
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Every bad request ends with its exit code, one error and a hint, and changes
// nothing.
func TestBadInput(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 1 << 20},
		testdomain.Disk{Target: "hda", Device: "cdrom"}))
	s.Write("vda", 0, 1<<20, 0x41)
	for _, kind := range []string{"full", "diff", "copy", "inc"} { // check1, diff2, copy3, check4
		s.program.Must(t, nil, "--quiet", kind, s.Name)
	}
	scratch := testdomain.TempDir(t)
	notOne := filepath.Join(scratch, "photos")
	newer := filepath.Join(scratch, "newer")
	absent := filepath.Join(scratch, "absent")
	below := filepath.Join(absent, "repo")
	write(t, filepath.Join(notOne, "photo.jpg"), "x")
	write(t, filepath.Join(newer, "repository.json"), `{"format": 99, "id": "0b1c5b1e-1111-4222-8333-444455556666"}`)
	empty := filepath.Join(scratch, "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(scratch, "restored")
	const nowhere = "qemu+unix:///system?socket=/nonexistent"

	tests := []struct {
		line string // NAME is the domain
		rejection
	}{
		{"full nosuch", rejection{6, "nosuch", "virsh list"}},
		{"inc nosuch", rejection{6, "nosuch", "virsh list"}},
		{"auto nosuch", rejection{6, "nosuch", "virsh list"}},
		{"full nosuch --repo " + absent, rejection{6, "nosuch", "virsh list"}},
		{"list nosuch", rejection{6, "nosuch has no points", "virtbackup list"}},
		{"show nosuch", rejection{6, "nosuch", "virtbackup list"}},
		{"restore nosuch --to " + to, rejection{6, "nosuch", "virtbackup list"}},
		{"restore ../x --to " + to, rejection{6, "../x", "virtbackup list"}},
		{"checkpoint list nosuch", rejection{6, "nosuch", "virsh list"}},
		{"checkpoint delete nosuch check1", rejection{6, "nosuch", "virsh list"}},

		{"full NAME --repo=", rejection{2, "names no directory", "--repo /srv/backup"}},
		{"inc NAME --keep-checkpoints 0", rejection{2, "from 1 on, not 0", "--keep-checkpoints 8"}},
		{"full NAME --connections 0", rejection{2, "from 1 on, not 0", "--connections 2"}},
		{"inc NAME --connections -1", rejection{2, "from 1 on, not -1", "--connections 2"}},
		{"full NAME --wait -5s", rejection{2, "--wait is a time from 0 on, not -5s", "--wait 30s"}},
		{"auto NAME --agent-timeout -1s", rejection{2, "--agent-timeout is a time from 0 on, not -1s", "--agent-timeout 30s"}},
		{"inc NAME --stall-timeout -1s", rejection{2, "--stall-timeout is a time from 0 on, not -1s", "--stall-timeout 30s"}},
		{"recover NAME --agent-timeout -1s", rejection{2, "--agent-timeout is a time from 0 on, not -1s", "--agent-timeout 30s"}},
		{"release NAME --agent-timeout -1s", rejection{2, "--agent-timeout is a time from 0 on, not -1s", "--agent-timeout 30s"}},
		{"full NAME --disk vdx", rejection{6, `no disk "vdx"`, "vda, vdb, hda"}},
		{"inc NAME --exclude vdx", rejection{6, `no disk "vdx"`, "vda, vdb, hda"}},
		{"full NAME --disk hda", rejection{2, "hda of domain NAME cannot be backed up", "--disk hda"}},
		{"full NAME --exclude vda --exclude vdb", rejection{2, "no disk to back up", "writable"}},
		{"full NAME --disk vda --exclude vda", rejection{2, "both chosen and excluded", "leave out"}},
		{"full NAME --disk vdx --repo " + absent, rejection{6, `no disk "vdx"`, "vda"}},
		{"restore NAME --disk vdx --to " + to, rejection{6, `no disk "vdx"`, "virtbackup show NAME@check4"}},

		{"inc NAME --since check99", rejection{6, "no point check99", "virtbackup list NAME"}},
		{"diff NAME --since check99", rejection{6, "no point check99", "virtbackup list NAME"}},
		{"show NAME@check99", rejection{6, "no point check99", "virtbackup list NAME"}},
		{"restore NAME --at check99 --to " + to, rejection{6, "no point check99", "virtbackup list NAME"}},
		{"checkpoint delete NAME check99", rejection{6, "check99", "checkpoint list"}},
		{"restore NAME --at 2001-01-01 --to " + to, rejection{6, "no point at or before 2001-01-01 23:59:59: the first is check1", "virtbackup list NAME"}},
		{"inc NAME --since diff2", rejection{2, "diff2 is a diff", "virtbackup list NAME"}},
		{"inc NAME --since copy3", rejection{2, "copy3 is a copy", "virtbackup list NAME"}},
		{"diff NAME --since diff2", rejection{2, "diff2 is a diff", "virtbackup list NAME"}},
		{"full NAME --quiesce maybe", rejection{2, "--quiesce is try, require or no", "--help"}},
		{"full NAME --quiesce require", rejection{1, "freeze the guest, as --quiesce require asks", "virsh resume NAME"}},

		{"full NAME --repo " + notOne, rejection{2, "not a virtbackup repository, and not empty", "--repo"}},
		{"inc NAME --repo " + notOne, rejection{2, "not a virtbackup repository", "--repo"}},
		{"list --repo " + notOne, rejection{2, "not a virtbackup repository", "--repo"}},
		{"inc NAME --repo " + absent, rejection{2, "the directory does not exist", "file system mounted"}},
		{"diff NAME --repo " + absent, rejection{2, "the directory does not exist", "virtbackup init DIR"}},
		{"auto NAME --repo " + absent, rejection{2, "the directory does not exist", "virtbackup init DIR"}},
		{"auto NAME --repo " + empty, rejection{2, "it holds no repository.json", "virtbackup init DIR"}},
		{"full NAME --repo " + below, rejection{2, "the directory does not exist, nor does " + absent, "virtbackup init DIR"}},
		{"copy NAME --repo " + below, rejection{2, "the directory does not exist, nor does " + absent, "virtbackup init DIR"}},
		{"list --repo " + absent, rejection{2, "the directory does not exist", "virtbackup init DIR"}},
		{"init " + notOne, rejection{2, "not a virtbackup repository, and not empty", "--repo"}},
		{"init " + newer, rejection{1, "made by a newer virtbackup", "newest virtbackup"}},
		{"init " + absent + " " + below, rejection{2, "takes the arguments [DIR]", "virtbackup init --help"}},
		{"inc NAME --repo " + newer, rejection{1, "made by a newer virtbackup", "newest virtbackup"}},
		{"restore NAME --to " + notOne, rejection{2, "not empty (it has photo.jpg)", "--to"}},
		{"restore NAME", rejection{2, "no directory to restore to", "--to DIR"}},
		{"restore NAME --format vmdk --to " + to, rejection{2, `unknown format "vmdk"`, "--format qcow2"}},
		{"restore NAME --to " + filepath.Join(notOne, "photo.jpg"), rejection{2, "not a directory", "--to"}},

		{"full NAME --connect " + nowhere, rejection{1, "/nonexistent", "libvirtd"}},
		{"checkpoint list NAME --connect " + nowhere, rejection{1, "/nonexistent", "libvirtd"}},
		{"full NAME --connect qemu+ssh://elsewhere/system", rejection{2, "another host", "on the host that the domain runs on"}},
		{"full NAME --scratch-dir " + absent, rejection{1, absent, "make " + absent}},
		{"full NAME --socket-dir " + absent, rejection{1, absent, "make " + absent}},
		{"full NAME --scratch-dir .", rejection{2, "absolute", "absolute"}},
		{"full NAME --repo " + absent + " --scratch-dir " + absent + "2", rejection{1, absent + "2", "make " + absent + "2"}},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			s := *s
			s.t = t
			tt.error, tt.hint = strings.ReplaceAll(tt.error, "NAME", s.Name), strings.ReplaceAll(tt.hint, "NAME", s.Name)
			s.rejects(tt.rejection, strings.Fields(strings.ReplaceAll(tt.line, "NAME", s.Name)), scratch)
		})
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A domain that is shut off is not backed up yet, and says so.
func TestNotRunning(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	for _, kind := range []string{"full", "copy", "auto"} {
		s.rejects(rejection{1, "not running", "not supported yet; virsh start " + s.Name}, []string{kind, s.Name})
	}
}

// The points of a domain never mix with those of another one of the same name.
func TestOtherDomainOfTheSameName(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.Write("vda", 0, 64<<10, 0x41)
	s.backUp(0, "full")
	doc := testdomain.Virsh(t, "dumpxml", s.Name, "--inactive")
	s.Destroy()
	testdomain.Virsh(t, "undefine", s.Name, "--checkpoints-metadata")
	file := filepath.Join(s.Dir, "other.xml")
	write(t, file, regexp.MustCompile(`<uuid>.*</uuid>`).ReplaceAllString(doc, ""))
	testdomain.Virsh(t, "define", file)
	s.Start()
	old := s.UUID
	s.UUID = strings.TrimSpace(testdomain.Virsh(t, "domuuid", s.Name))
	for _, kind := range []string{"full", "inc", "auto"} {
		s.rejects(rejection{1, old, "another repository"}, []string{kind, s.Name})
	}
	s.check()
}

// mount mounts an empty tmpfs of that size.
func mount(t *testing.T, size string) string {
	t.Helper()
	dir := testdomain.TempDir(t)
	testdomain.Tool(t, "mount", "-t", "tmpfs", "-o", "size="+size, "vbtest", dir)
	t.Cleanup(func() { testdomain.Tool(t, "umount", dir) })
	return dir
}

func TestReadOnlyRepository(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.Write("vda", 0, 64<<10, 0x41)
	dir := mount(t, "16m")
	s.repo = filepath.Join(dir, "repo")
	s.program.Env = []string{"VIRTBACKUP_REPO=" + s.repo}
	s.backUp(0, "full")
	testdomain.Tool(t, "mount", "-o", "remount,ro", dir)
	s.rejects(rejection{1, "read-only", "mounted read-only"}, []string{"inc", s.Name})
	s.rejects(rejection{1, "read-only", "mounted read-only"}, []string{"full", s.Name, "--repo", filepath.Join(dir, "new")}, dir)
	s.program.Must(t, nil, "list")
	s.check()
}

// A repository with too little space is refused before the job, with numbers, and
// one made for it goes. (TestTargetFillsInMidCopy: one that fills up later.)
func TestFullRepository(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 64 << 20}))
	s.Write("vda", 0, 1<<20, 0x41)
	dir := mount(t, "16m")
	s.repo = filepath.Join(dir, "repo")
	s.program.Env = []string{"VIRTBACKUP_REPO=" + s.repo}
	s.backUp(0, "full")
	s.Write("vda", 0, 40<<20, 0x42)
	for _, kind := range []string{"inc", "full", "copy"} {
		s.rejects(rejection{1, "it needs about 40.", "free space"}, []string{kind, s.Name}, dir)
	}
	s.rejects(rejection{1, "it needs about 40.", "free space"}, []string{"full", s.Name, "--repo", filepath.Join(dir, "new")}, dir)
	s.check()

	small := mount(t, "512k")
	s.rejects(rejection{1, "no space left on device", "free space"}, []string{"restore", s.Name, "--to", filepath.Join(small, "a", "b")}, small)
}

// Directories that QEMU may not enter are named.
func TestRefusedDirectories(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.Write("vda", 0, 64<<10, 0x41)
	dir := filepath.Join(testdomain.TempDir(t), "ours")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for option, hint := range map[string]string{"--socket-dir": "make a socket in " + dir, "--scratch-dir": "enter " + dir} {
		r := s.rejects(rejection{1, "Permission denied", hint}, []string{"full", s.Name, option, dir}, dir)
		if !strings.Contains(r.Stderr, dir) || !strings.Contains(r.Stderr, option) {
			t.Errorf("%s: it does not name the directory and the option", option)
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	s.backUp(0, "full", "--socket-dir", dir, "--scratch-dir", dir)
	if left := listing(t, dir); left != " "+dir {
		t.Errorf("left behind: %s", left)
	}
	s.check()
}

// A job of someone else is waited for, named, and never touched.
func TestForeignJob(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.Write("vda", 0, 64<<10, 0x41)
	file := filepath.Join(s.Dir, "job.xml")
	write(t, file, fmt.Sprintf(`<domainbackup mode='pull'><server transport='unix' socket='/var/lib/libvirt/qemu/%s.sock'/>`+
		`<disks><disk name='vda' backup='yes' type='file'><scratch file='/var/lib/libvirt/qemu/%s.scratch'/></disk></disks></domainbackup>`, s.Name, s.Name))
	t.Cleanup(func() { _ = os.Remove("/var/lib/libvirt/qemu/" + s.Name + ".sock") })
	testdomain.Virsh(t, "backup-begin", s.Name, file)
	job := testdomain.Virsh(t, "backup-dumpxml", s.Name)
	r := s.rejects(rejection{1, "held by a job that is not ours: backup", "virsh domjobinfo " + s.Name}, []string{"full", s.Name, "--wait", "1s"})
	if !strings.Contains(r.Stderr, "waiting up to 1s") {
		t.Error("it does not say that it waits")
	}
	if now := testdomain.Virsh(t, "backup-dumpxml", s.Name); now != job {
		t.Errorf("the job is another one: %s", now)
	}
	waiting := s.program.Start(t, "--json", "full", s.Name)
	testdomain.Virsh(t, "domjobabort", s.Name)
	if r := waiting.Wait(); r.Code != 0 {
		t.Errorf("exit %d after the job has ended", r.Code)
	}
}

// A foreign checkpoint and a damaged point do not stand in the way, and the number of
// the point is not used again.
func TestNumbersAreNotUsedAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.Write("vda", 0, 64<<10, 0x41)
	file := filepath.Join(s.Dir, "checkpoint.xml")
	write(t, file, `<domaincheckpoint><name>check3</name></domaincheckpoint>`)
	testdomain.Virsh(t, "checkpoint-create", s.Name, file)
	if got := s.backUp(0, "full").Point.ID; got != "check1" {
		t.Errorf("the point is %s, want check1", got)
	}
	damaged := filepath.Join(s.repo, s.Name, "check7")
	write(t, filepath.Join(damaged, manifest.FileName), "{}")
	if got := s.backUp(3, "inc").Point.ID; got != "check8" {
		t.Errorf("the point is %s, want check8", got)
	}
	s.program.Must(t, []int{5}, "list", s.Name)
	if err := os.RemoveAll(damaged); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(s.labels(), " "); got != "check3 check1 check8" && got != "check1 check3 check8" {
		t.Errorf("checkpoints: %s", got)
	}
	s.check()
}
