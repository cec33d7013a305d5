package docs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// badDay are the commands of README.md's "On a bad day" that follow some words, one command a line.
func badDay(t *testing.T, words string) (commands []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testdomain.Root(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n## On a bad day\n")
	rest, _, _ = strings.Cut(rest, "\n## ")
	if ok {
		_, rest, ok = strings.Cut(rest, words)
	}
	if !ok {
		t.Fatalf("README.md has no %q on a bad day", words)
	}
	for line := range strings.Lines(rest) {
		code, indented := strings.CutPrefix(line, "    ")
		if indented {
			command, _, _ := strings.Cut(code, "   ") // what follows says what it is for
			commands = append(commands, strings.TrimSpace(command))
		} else if commands != nil {
			break
		}
	}
	return commands
}

// badNight is a guest of which a point was made, and something was written since.
type badNight struct {
	*testsite.Site
	dir    string // of what is restored
	device string // a block device
}

func newBadNight(t *testing.T) badNight {
	t.Helper()
	s := talkative(t)
	s.Write("vda", 0, 1<<20, 0x41)
	s.BackUp(0, "full")
	s.Write("vda", 0, 2<<20, 0x42)
	s.BackUp(0, "inc")
	return badNight{s, testdomain.TempDir(t), ""}
}

// run runs the commands after some words as they stand, but for the names in them: guest vm1 and
// its point check7 are this one and its first point. QEMU without a guest does not react to a
// shutdown, and SSH has no host to go to.
func (n badNight) run(words string) string {
	n.T.Helper()
	names := strings.NewReplacer("/var/lib/libvirt/images/vm1-look", filepath.Join(n.dir, "look"), "/var/lib/libvirt/images/vm1", filepath.Join(n.dir, "vm1"),
		"/dev/vg0/vm1", n.device, "/srv/backup", n.Repo, "vm1-look", n.Name+"-look", "vm1@check7", n.Name+"@"+n.Points[0].ID, "vm1", n.Name,
		"virsh shutdown", "virsh destroy --graceful", "ssh host2", "sh -c")
	script := "PATH='" + filepath.Dir(testdomain.Binary(n.T)) + "':$PATH\n"
	script += names.Replace(badDay(n.T, gone)[0]+"\n"+strings.Join(badDay(n.T, words), "\n")) + "\n"
	file := filepath.Join(n.dir, "commands.sh")
	testsite.WriteFile(n.T, file, script)
	// On a terminal, where the question is answered.
	return testdomain.Tool(n.T, "sh", "-c", "echo yes | script -qec 'sh -eux "+file+"' /dev/null")
}

// gone are the words whose commands come first; the first one of them says where the repository is.
const gone = "**The guest is gone**"

// wantAsOf compares the disk of a guest, which then is off, with a point.
func (n badNight) wantAsOf(name, image string, point int) {
	n.T.Helper()
	if state := strings.TrimSpace(testdomain.Virsh(n.T, "domstate", name)); state != "running" {
		n.T.Errorf("%s is %s", name, state)
	}
	testdomain.Virsh(n.T, "destroy", name)
	testdomain.Same(n.T, image, "qcow2", n.Points[point].Truth["vda"])
}

// undefine is README.md's command that removes a definition, for a domain.
func undefine(t *testing.T, domain string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testdomain.Root(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n    virsh undefine vm1 ")
	if !ok {
		t.Fatal("README.md does not undefine vm1")
	}
	options, _, _ := strings.Cut(rest, "\n")
	return append([]string{"undefine", domain}, strings.Fields(options)...)
}

// lose deletes the guest and its disk. A definition that is left is removed with all that keeps libvirt
// from it.
func (n badNight) lose() {
	n.T.Helper()
	disk := n.Disk("vda").Source
	testdomain.Virsh(n.T, "snapshot-create-as", n.Name, "before")
	testdomain.Virsh(n.T, "managedsave", n.Name)
	testdomain.Virsh(n.T, undefine(n.T, n.Name)...)
	if err := os.Remove(disk); err != nil {
		n.T.Fatal(err)
	}
}

// The original and its disks were deleted: the guest comes back, at once or when all is copied, and the
// next backup continues in the same directory.
func TestBadDayGuestGone(t *testing.T) {
	t.Parallel()
	for words, point := range map[string]int{gone: 1, "Where the guest may stay off": 0} {
		t.Run(words, func(t *testing.T) {
			t.Parallel()
			n := newBadNight(t)
			n.lose()
			if said := n.run("Which guests and points there are"); !strings.Contains(said, n.Name) || !strings.Contains(said, "check2") {
				t.Errorf("the points are not shown: %s", said)
			}
			n.run(words)
			n.wantAsOf(n.Name, filepath.Join(n.dir, "vm1", "vda.qcow2"), point)
			if said := n.Program.Must(t, []int{3}, "auto", n.Name).Stdout; !strings.Contains(said, "check3: inc since check2") {
				t.Errorf("the next backup: %s", said)
			}
		})
	}
}

// The disks are put back where they are, and the state before is a point.
func TestBadDayInPlace(t *testing.T) {
	t.Parallel()
	n := newBadNight(t)
	n.Write("vda", 4<<20, 1<<20, 0x43)
	n.run("**The guest is there, and its data is wrong**")
	n.wantAsOf(n.Name, n.Disk("vda").Source, 0)
	kept := filepath.Join(n.Repo, n.Name, "check3", "vda.qcow2")
	testdomain.QemuIO(t, kept, "qcow2", "read -P 0x43 4M 1M")
}

// Another guest is beside the original, which stays as it was.
func TestBadDayLook(t *testing.T) {
	t.Parallel()
	n := newBadNight(t)
	before, look := everythingOf(n.Site), n.Name+"-look"
	t.Cleanup(func() {
		_, _ = testdomain.TryVirsh(t, "destroy", look)
		_, _ = testdomain.TryVirsh(t, "undefine", look)
		_ = os.Remove("/var/log/libvirt/qemu/" + look + ".log")
	})
	n.run("**To look first, or to fetch something**")
	if after := everythingOf(n.Site); after != before {
		t.Errorf("the original has changed: before\n%s\nafter\n%s", before, after)
	}
	n.wantAsOf(look, filepath.Join(n.dir, "look", "vda.qcow2"), 0)
}

// One disk goes to a block device, directly and through a pipe.
func TestBadDayOneDisk(t *testing.T) {
	t.Parallel()
	n := newBadNight(t)
	n.device = loop(t, "16M")
	n.run("**One disk**")
	testdomain.Same(t, n.device, "raw", n.Points[0].Truth["vda"])
}
