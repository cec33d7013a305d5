package bench

import (
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// machine says what the figures were measured on, and of what.
type machine struct {
	CPU        string            `json:"cpu"`
	Processors int               `json:"processors"`
	Memory     int64             `json:"memory"` // bytes
	Kernel     string            `json:"kernel"`
	Targets    string            `json:"targets"` // file system, as mount names it
	Load       string            `json:"load"`    // averages when the run began
	Versions   map[string]string `json:"versions"`
}

func readMachine(t *testing.T) machine {
	t.Helper()
	var uts unix.Utsname
	var info unix.Sysinfo_t
	if err := unix.Uname(&uts); err != nil {
		t.Fatal(err)
	}
	if err := unix.Sysinfo(&info); err != nil {
		t.Fatal(err)
	}
	return machine{
		CPU: cpu(), Processors: runtime.NumCPU(), Memory: int64(info.Totalram) * int64(info.Unit),
		Kernel:   unix.ByteSliceToString(uts.Release[:]),
		Targets:  oneLine(testdomain.Tool(t, "findmnt", "--noheadings", "--output", "FSTYPE,OPTIONS", "--target", "/var/tmp")),
		Load:     oneLine(fileText("/proc/loadavg")),
		Versions: versions(t),
	}
}

var modelName = regexp.MustCompile(`(?m)^model name\s*: (.*)$`)

func cpu() string {
	if m := modelName.FindStringSubmatch(fileText("/proc/cpuinfo")); m != nil {
		return m[1]
	}
	return runtime.GOARCH
}

// versions of the contestants, and of libvirt and QEMU that serve them.
func versions(t *testing.T) map[string]string {
	t.Helper()
	v := map[string]string{"go": runtime.Version(), "virtbackup": revision(t)}
	for _, tool := range []string{"nbdcopy", "qemu-img", "qemu-nbd"} {
		first, _, _ := strings.Cut(testdomain.Tool(t, tool, "--version"), "\n")
		v[tool] = lastWords(first, "version", tool)
	}
	if out, err := exec.Command("virtnbdbackup", "--version").Output(); err == nil {
		v["virtnbdbackup"] = oneLine(string(out))
	}
	for line := range strings.Lines(testdomain.Virsh(t, "version")) {
		if name, version, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			v[strings.ToLower(name)] = version
		}
	}
	return v
}

// lastWords is what follows the first of the words that s has.
func lastWords(s string, words ...string) string {
	for _, w := range words {
		if _, after, ok := strings.Cut(s, w+" "); ok {
			return after
		}
	}
	return s
}

// revision of the source tree that virtbackup is built from, if git knows it.
func revision(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("git", "-C", testdomain.Root(t), "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return oneLine(string(out))
}

func fileText(path string) string {
	text, _ := os.ReadFile(path)
	return string(text)
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// String is for people.
func (m machine) String() string {
	var b strings.Builder
	b.WriteString(m.CPU + ", " + strconv.Itoa(m.Processors) + " processors, " +
		strconv.FormatInt(m.Memory/gib, 10) + " GiB, Linux " + m.Kernel + "\n")
	b.WriteString("targets on " + m.Targets + "; load " + m.Load + "\n")
	for _, name := range []string{"virtbackup", "go", "using library", "running hypervisor", "qemu-img", "qemu-nbd", "nbdcopy", "virtnbdbackup"} {
		if v := m.Versions[name]; v != "" {
			b.WriteString(name + " " + v + "; ")
		}
	}
	return strings.TrimSuffix(b.String(), "; ") + "\n"
}
