package faults

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testfs"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// restoreScenario is a way to restore the newest point.
type restoreScenario struct {
	name string
	args []string // OUT stands for the directory or the file, DEVICE for the device
	// before is a fault that breaks a first run, whose leavings the run under test finds.
	before string
	tested func(point string) bool
}

var restoreScenarios = []restoreScenario{
	{name: "to", args: []string{"--to", "OUT"}},
	{name: "to raw", args: []string{"--to", "OUT", "--format", "raw", "--preallocation", "falloc"}, tested: with("restore", "fsync")},
	{name: "to preallocated", args: []string{"--to", "OUT", "--preallocation", "full"}, tested: with("restore", "fsync")},
	{name: "to again", args: []string{"--to", "OUT"}, before: "restore: file named#2:kill", tested: with("restore")},
	{name: "to again early", args: []string{"--to", "OUT"}, before: "flatten batch#2:kill", tested: with("restore: clear")},
	{name: "file", args: []string{"--disk", "vda", "--output", "OUT"}, tested: with("restore", "fsync")},
	{name: "file again", args: []string{"--disk", "vda", "--output", "OUT", "--format", "raw"}, before: "restore: file named:kill", tested: with("restore")},
	{name: "device", args: []string{"--disk", "vda", "--output", "DEVICE"}, tested: with("device", "fsync", "flatten", "restore", "check")},
	{name: "stream", args: []string{"--disk", "vda", "--output", "-"}, tested: with("stream", "restore", "check")},
}

const deviceBytes = 8 << 20

// restoreCell is one fault of one scenario.
type restoreCell struct {
	*restoreScenario
	point, way string
}

func (c restoreCell) String() string { return fmt.Sprintf("%s at %q of %s", c.way, c.point, c.name) }

func (c restoreCell) place() string { return c.name + "/" + c.point }

// restored is a repository from which the newest point is restored again and again.
type restored struct {
	*unhosted
	*numbers
	out, device string
	digest      string // of the repository
}

// At every point of a restore to a directory, a file, a device and standard output, virtbackup
// is killed, ended by a signal, given an I/O error or a full disk, and made to panic. The
// repository is as it was. Unless it was killed, no file is left, and a device has no head.
// Begun again it makes what the disks were, by qemu-img compare.
func TestFaultRestore(t *testing.T) {
	t.Parallel()
	seed := testsite.NewSeed(t)
	r := newRestored(t, seed)
	cells, points := r.cells()
	cells = cutRestore(cells, rand.New(rand.NewPCG(seed, 1)))
	for _, c := range cells {
		r.try(c)
	}
	t.Logf("%d points, %d faults (%v): %d disks of restores that were begun again, compared with the truth; wrong: %d",
		points, len(cells), r.numbers, r.compared.Load(), r.wrong.Load())
}

func newRestored(t *testing.T, seed uint64) *restored {
	t.Helper()
	u := newUnhosted(t, testdomain.TempDir(t), seed)
	u.resize("vda", 6<<20+37*512)
	u.resize("vdb", 3<<20)
	// QEMU makes such an image.
	u.sources = map[string]manifest.SourceOptions{"vdb": {Compat: "1.1", ClusterSize: 16 << 10, RefcountBits: 16, CompressionType: "zlib", LazyRefcounts: true, ExtendedL2: true}}
	parent, kind := "", manifest.KindFull
	for i, zstd := range []bool{false, true, false} {
		u.change()
		id := fmt.Sprintf("check%d", i+1)
		u.point(made{id: id, parent: parent, kind: kind, zstd: zstd})
		parent, kind = id, manifest.KindInc
	}
	r := &restored{unhosted: u, numbers: new(numbers), out: filepath.Join(u.Dir, "new", "out"), device: testfs.Loop(t, deviceBytes, 0xee)}
	r.digest = r.digests()
	return r
}

// digests is that of all names and bytes in the repository.
func (r *restored) digests() string {
	r.T.Helper()
	h := sha256.New()
	err := filepath.WalkDir(r.Repo, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Base(path) == "readers" { // restores lock that, and make it
			return err
		}
		data, err := os.ReadFile(path)
		fmt.Fprintf(h, "%s %d\n", path, len(data))
		h.Write(data)
		return err
	})
	if err != nil {
		r.T.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// run restores, broken by faults.
func (r *restored) run(s *restoreScenario, faults string, env ...string) testdomain.Result {
	r.T.Helper()
	args := []string{domainOfNoHost}
	for _, a := range s.args {
		args = append(args, strings.NewReplacer("OUT", r.out, "DEVICE", r.device).Replace(a))
	}
	program := r.Program
	program.Binary = "/bin/sh"
	program.Env = append(append(slices.Clone(program.Env), "VIRTBACKUP_FAULT="+faults), env...)
	return program.Run(r.T, append([]string{"-c", "exec \"$0\" \"$@\" >" + r.stdout(), testdomain.FaultyBinary(r.T), "restore"}, args...)...)
}

// stdout is the file that standard output goes to: it may be a disk.
func (r *restored) stdout() string { return filepath.Join(r.Dir, "stdout") }

// arrange makes what a scenario finds.
func (r *restored) arrange(s *restoreScenario) {
	r.T.Helper()
	if err := os.RemoveAll(filepath.Dir(r.out)); err != nil {
		r.T.Fatal(err)
	}
	if err := os.WriteFile(r.device, bytes.Repeat([]byte{0xee}, deviceBytes), 0o600); err != nil {
		r.T.Fatal(err)
	}
	if slices.Contains(s.args, "--output") {
		if err := os.MkdirAll(filepath.Dir(r.out), 0o700); err != nil {
			r.T.Fatal(err)
		}
	}
	if s.before != "" {
		if b := r.run(s, s.before); b.Code != 128+int(syscall.SIGKILL) {
			r.T.Fatalf("%s, %s: exit %d\n%s", s.name, s.before, b.Code, b.Stderr)
		}
	}
}

// cells asks the program for the points of each scenario.
func (r *restored) cells() (cells []restoreCell, points int) {
	r.T.Helper()
	for i := range restoreScenarios {
		s := &restoreScenarios[i]
		r.arrange(s)
		file := filepath.Join(r.Dir, "trace")
		done := r.run(s, "", "VIRTBACKUP_FAULT_TRACE="+file)
		text, err := os.ReadFile(file)
		if err := errors.Join(err, os.Remove(file)); err != nil || done.Code != 0 {
			r.T.Fatalf("%s: exit %d, %v\n%s", s.name, done.Code, err, done.Stderr)
		}
		var all []string
		for point := range strings.Lines(string(text)) {
			if point = strings.TrimSpace(point); s.tested == nil || s.tested(point) {
				all = append(all, point)
			}
		}
		r.T.Logf("%s: %d points: %s", s.name, len(all), strings.Join(all, ", "))
		if len(all) == 0 {
			r.T.Errorf("%s: no points", s.name)
		}
		points += len(all)
		for _, point := range all {
			for _, way := range []string{kill, term, fails, noSpace, crash} {
				cells = append(cells, restoreCell{s, point, way})
			}
		}
	}
	return cells, points
}

// cutRestore selects a fifth of the points, with one way for each, mostly SIGKILL, or all
// as cut does.
func cutRestore(cells []restoreCell, r *rand.Rand) []restoreCell {
	if testsite.AllFaults() {
		return cells
	}
	if only := os.Getenv("VIRTBACKUP_FAULTS"); only != "" {
		return slices.DeleteFunc(cells, func(c restoreCell) bool { return !strings.HasPrefix(c.place(), only) })
	}
	var some []restoreCell
	for ; len(cells) > 0; cells = cells[5:] {
		switch r.IntN(10) {
		case 0:
			some = append(some, cells[0])
		case 1:
			some = append(some, cells[1+r.IntN(4)])
		}
	}
	return some
}

// try breaks a restore, checks what is left, begins it again and checks what it has made.
func (r *restored) try(c restoreCell) {
	r.T.Helper()
	r.of(c.way).Add(1)
	r.arrange(c.restoreScenario)
	result := r.run(c.restoreScenario, c.point+":"+c.way)
	if killed := result.Code == 128+int(syscall.SIGKILL); killed != (c.way == kill) {
		r.T.Fatalf("%s: exit %d\n%s", c, result.Code, result.Stderr)
	}
	if panicked := strings.Contains(result.Stderr, "internal error: fault: "); panicked != (result.Code == 70) {
		r.T.Errorf("%s: exit %d\n%s", c, result.Code, result.Stderr)
	}
	if result.Code != 0 && c.way != kill {
		r.wantNothingMade(c)
	}
	if result.Code == 0 || c.way == kill && strings.HasPrefix(c.point, "restore: done") { // it came too late
		r.wantRight(c)
		r.arrange(&restoreScenario{args: c.args})
	}
	again := r.run(c.restoreScenario, "")
	if again.Code != 0 {
		r.T.Fatalf("%s, begun again: exit %d\n%s", c, again.Code, again.Stderr)
	}
	r.wantRight(c)
	if r.digests() != r.digest {
		r.T.Fatalf("%s: the repository has changed", c)
	}
}

// wantNothingMade checks that a restore that failed has left no file, and no head on a device.
func (r *restored) wantNothingMade(c restoreCell) {
	r.T.Helper()
	left, _ := filepath.Glob(filepath.Dir(r.out) + "/*")
	hidden, _ := filepath.Glob(filepath.Dir(r.out) + "/.*")
	in, _ := os.ReadDir(r.out)
	// A directory that was there before stays, empty.
	// What a killed restore has left stays if not even that could be removed.
	if all := append(left, hidden...); len(all) > 0 && !(c.before != "" && len(all) == 1 && len(in) == 0 || c.point == "restore: clear directory#1" && c.before != "") {
		r.T.Errorf("%s: left %v %v", c, all, in)
	}
	// Once the head is there, all else is, and is durable.
	if c.name != "device" || with("fsync device before#3", "fsync device after#3", "restore: done")(c.point) {
		return
	}
	data, err := os.ReadFile(r.device)
	if err != nil {
		r.T.Fatal(err)
	}
	if head := data[:1<<20]; len(bytes.Trim(head, "\x00")) > 0 && !bytes.Equal(data, bytes.Repeat([]byte{0xee}, deviceBytes)) {
		r.T.Errorf("%s: the device has a head and is not as it was", c)
	}
}

// wantRight compares what a restore has made with the truth.
func (r *restored) wantRight(c restoreCell) {
	r.T.Helper()
	point := r.Points[len(r.Points)-1]
	format := "qcow2"
	if slices.Contains(c.args, "raw") {
		format = "raw"
	}
	compare := func(image, target string) {
		r.T.Helper()
		r.compared.Add(1)
		if err := testdomain.TryTool(r.T, "qemu-img", "compare", "--image-opts", image, "driver=raw,file.driver=file,file.filename="+point.Truth[target]); err != nil {
			r.wrong.Add(1)
			r.T.Errorf("%s: %s is wrong: %v", c, target, err)
		}
	}
	file := func(path string) string {
		return fmt.Sprintf("driver=%s,file.driver=file,file.filename=%s", format, path)
	}
	switch c.args[len(c.args)-1] {
	case "DEVICE":
		compare(fmt.Sprintf("driver=raw,size=%d,file.driver=host_device,file.filename=%s", point.Disks[0].VirtualSize, r.device), "vda")
	case "-":
		compare("driver=raw,file.driver=file,file.filename="+r.stdout(), "vda")
	default:
		if slices.Contains(c.args, "--output") {
			compare(file(r.out), "vda")
			return
		}
		for _, d := range point.Disks {
			compare(file(filepath.Join(r.out, d.Target+"."+format)), d.Target)
		}
		if left, _ := os.ReadDir(r.out); len(left) != 3 {
			r.T.Errorf("%s: %v is there", c, left)
		}
	}
}
