package drill

import (
	"fmt"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/drill/record"
	"github.com/virtbackup/virtbackup/drill/remains"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// A guest is booted until its agent answers, and a script asks it through the agent. Its disk, and
// the point, are as before.
func TestAgentAndScript(t *testing.T) {
	s := testsite.New(t, testdomain.DefineGuest(t, testdomain.Disk{Target: "vda", Size: 64 << 20}))
	s.Program.Must(t, nil, "--quiet", "full", s.Name)
	before := points(s)
	ask := script(t, `echo "asked $1 of $VIRTBACKUP_DRILL_OF at $VIRTBACKUP_DRILL_POINT, $2"
virsh dumpxml "$1" | grep -E '<(interface|hostdev|filesystem)' && exit 3
virsh qemu-agent-command "$1" '{"execute":"guest-exec","arguments":{"path":"/bin/sh","arg":["-c","echo written >/mnt/drilled; sync"]}}' --timeout 20`)
	r, all := drill(s, 0, s.Name, "--script", ask)
	if len(all) != 1 {
		t.Fatalf("%d records", len(all))
	}
	got := all[0]
	if !got.Booted || got.By != record.ByScript || got.Seconds <= 0 || got.Script == nil || got.Script.ExitCode != 0 || got.Point != "check1" || got.Memory != 192<<20 {
		t.Errorf("the record is %+v", got)
	}
	if want := " of " + s.Name + " at check1, " + testdomain.URI; !strings.Contains(got.Script.Output, want) || !strings.Contains(got.Script.Output, `"pid":`) {
		t.Errorf("the script's output is %q, want %q in it", got.Script.Output, want)
	}
	if !strings.Contains(strings.Join(got.Console, "\n"), "GUEST-READY") || !strings.Contains(r.Stdout, "has booted") {
		t.Errorf("the console has %q; it says %s", got.Console, r.Stdout)
	}
	if now := points(s); now != before {
		t.Errorf("the point has changed: before\n%s\nnow\n%s", before, now)
	}
}

// What a guest writes to its console shows that it is up. list and show say when it booted, prune
// keeps what booted last.
func TestExpect(t *testing.T) {
	s := tiny(t)
	r, all := drill(s, 0, s.Name+"@check1", "--expect", said, "--memory", "32M", "--vcpus", "2")
	got := all[0]
	if len(all) != 1 || !got.Booted || got.By != record.ByConsole || got.Memory != 32<<20 || got.VCPUs != 2 {
		t.Fatalf("the records are %+v", all)
	}
	f, err := os.Open(filepath.Join(s.Repo, s.Name, record.DirName, got.Screenshot))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if picture, err := png.Decode(f); err != nil || picture.Bounds().Dx() < 300 {
		t.Errorf("the screenshot: %v", err)
	}
	if shown := listed(s); shown == nil || !shown.Booted {
		t.Errorf("list has %+v", shown)
	}
	day := time.Now().Format(time.DateOnly)
	testsite.WantLine(t, s.Program.Must(t, nil, "list", s.Name).Stdout, "BOOTED")
	testsite.WantLine(t, s.Program.Must(t, nil, "list", s.Name).Stdout, "^  check1 .*"+day)
	testsite.WantLine(t, s.Program.Must(t, nil, "show", s.Name).Stdout, "^booted: +"+day+".* the text stood on its console")
	testsite.WantNoControls(t, "drill", r.Stdout+r.Stderr)

	s.Program.Must(t, nil, "--quiet", "full", s.Name)
	testsite.WantLine(t, s.Program.Must(t, nil, "prune", s.Name, "--keep-last", "1", "--dry-run").Stdout, "check1 .*last booted")
	s.Program.Must(t, []int{2}, "prune", s.Name, "--remove", "check1")

	// The last drill counts: it did not boot, and is kept no longer for that.
	failed, all := drill(s, 1, s.Name+"@check1", "--expect", "something else", "--timeout", "3s")
	testsite.WantNoControls(t, "drill", failed.Stderr)
	for _, words := range []string{`"something else" did not appear`, said + `\u0007`, "hint: "} {
		if !strings.Contains(failed.Stderr, words) {
			t.Errorf("it does not say %q", words)
		}
	}
	if len(all) != 2 || all[1].Booted || all[1].Screenshot == "" {
		t.Errorf("the records are %+v", all)
	}
	testsite.WantLine(t, s.Program.Must(t, nil, "list", s.Name).Stdout, "^  check1 .*FAILED")
	if out := s.Program.Must(t, nil, "prune", s.Name, "--keep-last", "1", "--dry-run").Stdout; strings.Contains(out, "last booted") {
		t.Errorf("kept all the same:\n%s", out)
	}
}

// A script's verdict counts, and its time is bounded, with that of its children.
func TestScript(t *testing.T) {
	s := tiny(t)
	r, all := drill(s, 1, s.Name, "--expect", said, "--script", script(t, "echo the database is empty; exit 7"))
	if !strings.Contains(r.Stderr, "exit status 7: the database is empty") || len(all) != 1 || all[0].Booted || all[0].Script.ExitCode != 7 {
		t.Errorf("%s, %+v", r.Stderr, all)
	}
	r, all = drill(s, 1, s.Name, "--script", script(t, "sleep 1000 & sleep 1000"), "--script-timeout", "1s")
	if !strings.Contains(r.Stderr, "did not end within 1s") || len(all) != 2 || all[1].Script.ExitCode != -1 || all[1].Script.Seconds > 500 {
		t.Errorf("%s, %+v", r.Stderr, all)
	}
}

// A guest that does not boot is said not to have booted, with its last words; also one that panics and
// starts again.
func TestDoesNotBoot(t *testing.T) {
	d := testdomain.DefineGuest(t, testdomain.Disk{Target: "vda", Size: 1 << 20})
	doc := strings.Replace(testdomain.Virsh(t, "dumpxml", d.Name), "console=ttyS0", "console=ttyS0 rdinit=/none root=/dev/none", 1)
	definition := filepath.Join(d.Dir, "panics.xml")
	testsite.WriteFile(t, definition, doc)
	testdomain.Virsh(t, "define", definition)
	s := testsite.New(t, d)
	s.Program.Must(t, nil, "--quiet", "full", s.Name)
	r, all := drill(s, 1, s.Name, "--timeout", "1m")
	if !strings.Contains(r.Stderr, "powered off, rebooted or crashed") || !strings.Contains(r.Stderr, "Kernel panic") {
		t.Errorf("it says %s", r.Stderr)
	}
	if len(all) != 1 || all[0].Booted || !strings.Contains(strings.Join(all[0].Console, "\n"), "Kernel panic") {
		t.Errorf("the records are %+v", all)
	}
}

// What the guest reads is proven: where it is damaged the guest has not booted, whatever it did.
func TestDamage(t *testing.T) {
	s := tiny(t)
	image := filepath.Join(s.Repo, s.Name, "check1", "vda.qcow2")
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(data), said)
	if at < 0 {
		t.Fatal("the image does not have the boot sector")
	}
	testsite.Flip(t, image, int64(at))
	r, all := drill(s, 5, s.Name, "--expect", said[1:])
	if !strings.Contains(r.Stderr, "what it reads is damaged") || !strings.Contains(r.Stderr, "check1/vda.qcow2") || len(all) != 1 || all[0].Booted {
		t.Errorf("%s, %+v", r.Stderr, all)
	}
}

// Killed at any step, or interrupted, it leaves nothing that recover, or the next drill, does not take away.
func TestKilled(t *testing.T) {
	s := tiny(t)
	for i, point := range []string{"drill: write note", "drill: make directory", "drill: lock directory", "drill: create file", "drill: start server",
		"drill: start domain", "drill: domain runs", "drill: end domain", "drill: remove files", "drill: remove note", "drill: write record"} {
		if r := broken(s, point+":kill").Run(t, "drill", s.Name, "--expect", said); r.Code != 128+int(syscall.SIGKILL) {
			t.Fatalf("%s: exit %d", point, r.Code)
		}
		ids := noted(s)
		if i%4 == 3 {
			drill(s, 0, s.Name, "--expect", said)
			wantNothingLeft(s, ids...)
			continue
		}
		if point == "drill: lock directory" || point == "drill: domain runs" {
			before := s.Everything(nil)
			dry := s.Recovered(0, "--dry-run")
			if testsite.WantList(t, "dry run", dry.Fixed, "drill "); s.Everything(nil) != before {
				t.Error("a dry run of recover has changed something")
			}
		}
		s.Recovered(0)
		wantNothingLeft(s, ids...)
		if t.Failed() {
			t.Fatalf("killed at %q", point)
		}
	}
	p := s.Program.Start(t, "drill", s.Name, "--expect", "never")
	var ids []string
	testsite.Await(t, "the domain", 100*time.Millisecond, func() bool {
		ids = noted(s)
		return len(ids) == 1 && strings.Contains(testdomain.Virsh(t, "list", "--name"), remains.NamePrefix+ids[0])
	})
	if fixed := s.Recovered(0).Fixed; len(fixed) > 0 { // it runs
		t.Errorf("recover has cleaned up %q", fixed)
	}
	p.Signal(syscall.SIGTERM)
	if r := p.Wait(); r.Code != 128+int(syscall.SIGTERM) {
		t.Errorf("interrupted: exit %d", r.Code)
	}
	wantNothingLeft(s, ids...)
	// A domain that libvirt does not know any more is cleaned up after, too.
	if r := broken(s, "drill: remove files:kill").Run(t, "drill", s.Name, "--expect", said); r.Code != 128+int(syscall.SIGKILL) {
		t.Fatalf("exit %d", r.Code)
	}
	ids = noted(s)
	testdomain.Virsh(t, "undefine", s.Name, "--checkpoints-metadata")
	s.Program.Must(t, nil, "recover", "--all")
	wantNothingLeft(s, ids...)
}

// A domain that has the UUID of a drill's and not its metadata is somebody else's: it runs on, and nothing
// that the note names is touched before it is gone.
func TestForeignDomain(t *testing.T) {
	s := tiny(t)
	if r := broken(s, "drill: start domain:kill").Run(t, "drill", s.Name, "--expect", said); r.Code != 128+int(syscall.SIGKILL) {
		t.Fatalf("exit %d", r.Code)
	}
	ids := noted(s)
	data, err := os.ReadFile(filepath.Join(s.Repo, s.Name, record.DirName, ".running-"+ids[0]))
	if err != nil {
		t.Fatal(err)
	}
	uuid := regexp.MustCompile(`"uuid": *"([0-9a-f-]{36})"`).FindSubmatch(data)
	const name = "vbtest-foreign"
	definition := filepath.Join(s.Dir, "foreign.xml")
	testsite.WriteFile(t, definition, fmt.Sprintf("<domain type='qemu'><name>%s</name><uuid>%s</uuid>"+
		"<metadata><drill:drill xmlns:drill='https://github.com/virtbackup/virtbackup/drill/1' repository='%s' id='0123456789abcdef'/></metadata>"+
		"<memory unit='MiB'>16</memory><os><type arch='x86_64' machine='pc'>hvm</type></os></domain>", name, uuid[1], s.RepositoryID()))
	testdomain.Virsh(t, "create", definition, "--paused")
	ends := func() { _ = exec.Command("virsh", "-c", testdomain.URI, "destroy", name).Run() }
	t.Cleanup(ends)
	left := s.Recovered(3).Left
	if len(left) != 1 || !strings.Contains(left[0], "domain "+name+" has its UUID, and is not the drill's") {
		t.Errorf("left: %q", left)
	}
	if !strings.Contains(testdomain.Virsh(t, "list", "--name"), name) || len(noted(s)) != 1 {
		t.Error("the domain, or the note, is gone")
	}
	ends()
	s.Recovered(0)
	wantNothingLeft(s, ids...)
}

// A note that cannot be read does not keep recover from what a run has left, which comes first: a frozen
// guest is of more weight than a directory.
func TestRecoverGoesOn(t *testing.T) {
	s := tiny(t)
	dir := filepath.Join(s.Repo, s.Name)
	partial, note := filepath.Join(dir, ".partial-check2"), filepath.Join(dir, record.DirName, ".running-0123456789abcdef")
	for _, d := range []string{partial, note} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if r := s.Program.Must(t, []int{1}, "recover", s.Name); !strings.Contains(r.Stderr, "clean up after drill 0123456789abcdef") {
		t.Error("it does not say what it cannot read")
	}
	if _, err := os.Lstat(partial); err == nil {
		t.Error("what a run has left is still there")
	}
}

// libvirtd ends the guest with the connection, as when it is started anew. That says nothing of the point.
func TestConnectionLost(t *testing.T) {
	s := tiny(t)
	drill(s, 0, s.Name, "--expect", said)
	p := s.Program.Start(t, "drill", s.Name, "--expect", "never")
	awaitGuest(s)
	disconnect(t, p.Cmd.Process.Pid)
	if r := p.Wait(); r.Code != 1 || !strings.Contains(r.Stderr, "connection to libvirt was lost") {
		t.Errorf("exit %d", r.Code)
	}
	wantNothingLeft(s)
	if all := records(s); len(all) != 1 || !all[0].Booted {
		t.Errorf("the records are %+v", all)
	}
}

// A file system that others write to is not filled: the drill is refused, or the guest is ended. That says
// nothing of the point.
func TestNoRoom(t *testing.T) {
	s := tiny(t)
	full := testsite.Mounted(t, "tmpfs", 64)
	fill := func(name string, mib int) {
		testdomain.Tool(t, "fallocate", "-l", fmt.Sprintf("%dM", mib), filepath.Join(full, name))
	}
	fill("others", 50)
	p := s.Program.Start(t, "drill", s.Name, "--expect", "never", "--scratch-dir", full)
	awaitGuest(s)
	fill("guest", 10)
	const refused = "a drill leaves 6.4 MiB to others"
	if r := p.Wait(); r.Code != 1 || !strings.Contains(r.Stderr, refused) || !strings.Contains(r.Stderr, "--scratch-dir") {
		t.Errorf("exit %d", r.Code)
	}
	wantNothingLeft(s)
	if r, all := drill(s, 1, s.Name, "--expect", said, "--scratch-dir", full); !strings.Contains(r.Stderr, refused) || len(all) > 0 {
		t.Errorf("%s, %+v", r.Stderr, all)
	}
}

// A QEMU that is killed, as for lack of memory on the host, says nothing of the point: neither while the guest
// boots nor under the script, which may fail of that.
func TestQEMUKilled(t *testing.T) {
	s := tiny(t)
	for _, args := range [][]string{{"--expect", "never"}, {"--script", script(t, "sleep 3; exit 1")}} {
		p := s.Program.Start(t, append([]string{"drill", s.Name}, args...)...)
		pid, err := os.ReadFile(filepath.Join("/run/libvirt/qemu", awaitGuest(s)+".pid"))
		if err != nil {
			t.Fatal(err)
		}
		testdomain.Tool(t, "kill", "-9", strings.TrimSpace(string(pid)))
		if r := p.Wait(); r.Code != 1 || !strings.Contains(r.Stderr, "its QEMU crashed, or was killed") {
			t.Errorf("%q: exit %d", args, r.Code)
		}
		wantNothingLeft(s)
		if all := records(s); len(all) > 0 {
			t.Errorf("the records are %+v", all)
		}
	}
}

// A repository that is read-only takes no result.
func TestReadOnlyRepository(t *testing.T) {
	s := tiny(t)
	testdomain.Tool(t, "mount", "--bind", s.Repo, s.Repo)
	t.Cleanup(func() { testdomain.Tool(t, "umount", s.Repo) })
	testdomain.Tool(t, "mount", "-o", "remount,bind,ro", s.Repo)
	r, _ := drill(s, 1, s.Name, "--expect", said)
	if !strings.Contains(r.Stderr, "hint: a drill writes its result into the repository: mount it for writing") {
		t.Errorf("it does not say why: %s", r.Stderr)
	}
}

// awaitGuest waits until the guest of the only drill runs, and returns the name of its domain.
func awaitGuest(s *testsite.Site) (name string) {
	s.T.Helper()
	testsite.Await(s.T, "the guest", 100*time.Millisecond, func() bool {
		ids := noted(s)
		if len(ids) == 1 {
			name = remains.NamePrefix + ids[0]
		}
		return name != "" && strings.Contains(testdomain.Virsh(s.T, "list", "--name", "--state-running"), name)
	})
	return name
}

// disconnect ends the connections of a process to libvirtd.
func disconnect(t *testing.T, pid int) {
	t.Helper()
	const admin, daemon = "virt-admin", "libvirtd"
	for line := range strings.Lines(testdomain.Tool(t, admin, "client-list", daemon)) {
		id, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if _, err := strconv.Atoi(id); err != nil {
			continue
		}
		info, err := exec.Command(admin, "client-info", daemon, id).Output() // others end meanwhile
		if err == nil && regexp.MustCompile(fmt.Sprintf(`(?m)^unix_process_id *: %d$`, pid)).Match(info) {
			testdomain.Tool(t, admin, "client-disconnect", daemon, id)
		}
	}
}

// All domains are drilled, those never drilled first; a failure does not stop the others, and a limit
// of time says which are left.
func TestAll(t *testing.T) {
	s := tiny(t)
	mute := testsite.Site{Domain: defineTiny(t), T: t, Repo: s.Repo, Program: s.Program}
	testdomain.Tool(t, "qemu-io", "-f", "qcow2", "-c", "write -P 0xf4 0 500", mute.Disks[0].Source) // hlt
	s.Program.Must(t, nil, "--quiet", "full", mute.Name)
	drill(s, 0, s.Name, "--expect", said)
	r, all := drill(s, 1, "--all", "--expect", said, "--timeout", "8s")
	if !strings.Contains(r.Stderr, "1 of 2 domains were not booted: "+mute.Name) || len(all) != 2 || len(records(&mute)) != 1 {
		t.Errorf("%s, %+v", r.Stderr, all)
	}
	if failed := records(&mute)[0]; !failed.Time.Before(all[1].Time) || failed.Booted {
		t.Error("the domain that was drilled before came first")
	}
	r, _ = drill(s, 1, "--all", "--expect", said, "--timeout", "1s", "--max-duration", "1ns")
	if !strings.Contains(r.Stderr, "no time was left for "+s.Name) {
		t.Errorf("it does not say what is left: %s", r.Stderr)
	}
}

// Bad input is refused, and changes nothing.
func TestRefused(t *testing.T) {
	s := tiny(t)
	before := s.Everything(nil)
	long := filepath.Join(s.Dir, strings.Repeat("x", 80))
	if err := os.Mkdir(long, 0o777); err != nil {
		t.Fatal(err)
	}
	closed := filepath.Join(s.Dir, "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		code  int
		words string
		args  []string
	}{
		{2, "no channel for a guest agent", []string{s.Name}},
		{6, "check99", []string{s.Name + "@check99", "--expect", "x"}},
		{6, "vbtest-none", []string{"vbtest-none", "--expect", "x"}},
		{2, "must be more than 0", []string{s.Name, "--timeout", "0"}},
		{2, "no guest boots with less than 16.0 MiB", []string{s.Name, "--expect", "x", "--memory", "512"}},
		{2, "--vcpus", []string{s.Name, "--vcpus", "0"}},
		{2, "--script", []string{s.Name, "--script", filepath.Join(s.Dir, "none")}},
		{2, "not a program", []string{s.Name, "--script", s.Dir}},
		{2, "--max-duration is for --all", []string{s.Name, "--expect", "x", "--max-duration", "1h"}},
		{2, "takes the arguments", []string{s.Name, "--all"}},
		{2, "may have 107", []string{s.Name, "--expect", "x", "--scratch-dir", long}},
		{2, "absolute path", []string{s.Name, "--expect", "x", "--scratch-dir", "relative"}},
		{1, "cannot enter", []string{s.Name, "--expect", "x", "--scratch-dir", closed}},
		{1, "no such file", []string{s.Name, "--expect", "x", "--scratch-dir", filepath.Join(s.Dir, "none")}},
	} {
		r := s.Program.Run(t, append([]string{"drill"}, tt.args...)...)
		if r.Code != tt.code || !strings.Contains(r.Stderr, tt.words) || strings.Contains(r.Stderr, "goroutine") {
			t.Errorf("drill %q: exit %d, want %d and %q", tt.args, r.Code, tt.code, tt.words)
		}
	}
	if now := s.Everything(nil); now != before {
		t.Errorf("something has changed: before\n%s\nnow\n%s", before, now)
	}
	wantNothingLeft(s)
}
