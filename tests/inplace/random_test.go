package inplace

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// walk is a random history of a domain with two disks of qcow2.
type walk struct {
	*testsite.Site
	*rand.Rand
	t      *testing.T
	n      int               // steps so far
	copies map[string]string // of images, by path
}

// Whatever was done to a domain and its images, a restore in place of any point is right, and so are
// all points.
func TestRandom(t *testing.T) {
	t.Parallel()
	rounds := 6
	if testdomain.Soak(t) > 0 {
		rounds = 40
	}
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 8 * mib}, testdomain.Disk{Target: "vdb", Size: 8 * mib}))
	s.MayWarn = true
	w := &walk{Site: s, Rand: rand.New(rand.NewPCG(testsite.NewSeed(t), 0)), t: t, copies: map[string]string{}}
	for range rounds {
		for range 1 + w.IntN(4) {
			t.Log(w.step())
		}
		t.Log(w.backUp())
		if w.IntN(3) == 0 {
			t.Log(w.restore())
		}
		if t.Failed() {
			return
		}
	}
	s.Check()
}

// step does something to the domain, and says what.
func (w *walk) step() string {
	w.n++
	d := &w.Disks[w.IntN(len(w.Disks))]
	steps := []func(*testdomain.Disk) string{w.write, w.write, w.write, w.write, w.turnOn, w.turnOff, w.snapshot, w.overlay, w.rollBack, w.swap, w.resize, w.commit, w.forget}
	return steps[w.IntN(len(steps))](d)
}

func (w *walk) turnOn(*testdomain.Disk) string {
	if w.State() == "shut" {
		w.Start()
	}
	return "on"
}

// turnOff may kill QEMU, which loses all bitmaps.
func (w *walk) turnOff(*testdomain.Disk) string {
	switch {
	case w.State() == "shut":
	case w.IntN(8) == 0:
		w.Kill()
		return "killed"
	default:
		w.Destroy()
	}
	return "off"
}

// write writes to both disks.
func (w *walk) write(*testdomain.Disk) string {
	for _, d := range w.Disks {
		size := testdomain.VirtualSize(w.t, d.Source, d.Format)
		at := w.Int64N(size>>16) << 16
		length := min(size-at, 512*(1+w.Int64N(400)))
		command := fmt.Sprintf("write -P %#x %d %d", 1+w.IntN(250), at, length)
		switch w.IntN(5) {
		case 0:
			command = fmt.Sprintf("discard %d %d", at, length)
		case 1:
			command = fmt.Sprintf("write -z -u %d %d", at, length)
		}
		if w.State() == "shut" {
			testdomain.QemuIO(w.t, d.Source, d.Format, command)
			continue
		}
		w.IO(d.Target, command, "flush")
	}
	return "write"
}

func (w *walk) newPath(d *testdomain.Disk) string {
	return filepath.Join(w.Dir, fmt.Sprintf("%s-%d.qcow2", d.Target, w.n))
}

// snapshot makes an external one of the running domain.
func (w *walk) snapshot(d *testdomain.Disk) string {
	w.turnOn(d)
	top := w.newPath(d)
	args := []string{"snapshot-create-as", w.Name, "--disk-only", "--atomic", "--no-metadata", "--diskspec", d.Target + ",file=" + top}
	for _, other := range w.Disks {
		if other.Target != d.Target {
			args = append(args, "--diskspec", other.Target+",snapshot=no")
		}
	}
	testdomain.Virsh(w.t, args...)
	d.Source = top
	return "snapshot of " + d.Target
}

// overlay does the same while the domain is off.
func (w *walk) overlay(d *testdomain.Disk) string {
	w.turnOff(d)
	top := w.newPath(d)
	testdomain.Tool(w.t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", d.Source, "-F", "qcow2", top)
	w.use(d, top)
	return "overlay of " + d.Target
}

// commit puts what an image has into its backing file, which takes its place.
func (w *walk) commit(d *testdomain.Disk) string {
	w.turnOff(d)
	_, after, ok := strings.Cut(testdomain.Tool(w.t, "qemu-img", "info", d.Source), "\nbacking file: ")
	if !ok {
		return "nothing to commit"
	}
	testdomain.Tool(w.t, "qemu-img", "commit", "-q", d.Source)
	w.use(d, strings.Fields(after)[0])
	return "commit of " + d.Target
}

// rollBack copies an image, or writes such a copy over it.
func (w *walk) rollBack(d *testdomain.Disk) string {
	w.turnOff(d)
	if old, ok := w.copies[d.Source]; ok {
		testdomain.Tool(w.t, "dd", "status=none", "bs=1M", "if="+old, "of="+d.Source)
		return "roll back of " + d.Target
	}
	w.copies[d.Source] = w.newPath(d) + ".old"
	testdomain.Tool(w.t, "cp", d.Source, w.copies[d.Source])
	return "copy of " + d.Target
}

func (w *walk) resize(d *testdomain.Disk) string {
	w.turnOff(d)
	size := (4 + 2*w.Int64N(4)) * mib
	if err := testdomain.TryTool(w.t, "qemu-img", "resize", "-q", "--shrink", d.Source, fmt.Sprint(size)); err != nil {
		return "no resize" // bitmaps that a killed QEMU has left
	}
	return fmt.Sprintf("resize of %s to %d", d.Target, size)
}

// swap gives each disk the images of the other one.
func (w *walk) swap(d *testdomain.Disk) string {
	w.turnOff(d)
	a, b := w.Disks[0].Source, w.Disks[1].Source
	w.use(&w.Disks[0], "/nowhere")
	w.use(&w.Disks[1], a)
	w.use(&w.Disks[0], b)
	return "swap"
}

// use defines a disk with another top image, and without the chains of images that libvirt has
// recorded.
func (w *walk) use(d *testdomain.Disk, image string) {
	disks := strings.SplitAfter(testdomain.Virsh(w.t, "dumpxml", w.Name, "--inactive"), "</disk>")
	for i, xml := range disks {
		from, to := strings.Index(xml, "<backingStore"), strings.LastIndex(xml, "</backingStore>")
		if from >= 0 && to >= 0 {
			disks[i] = xml[:from] + xml[to+len("</backingStore>"):]
		}
	}
	file := filepath.Join(w.Dir, "used.xml")
	testsite.WriteFile(w.t, file, strings.Replace(strings.Join(disks, ""), "'"+d.Source+"'", "'"+image+"'", 1))
	testdomain.Virsh(w.t, "define", file)
	d.Source = image
}

// forget deletes a checkpoint of a point that may have none.
func (w *walk) forget(*testdomain.Disk) string {
	if len(w.Points) == 0 {
		return "nothing to forget"
	}
	p := w.Points[w.IntN(len(w.Points))]
	w.Program.Must(w.t, []int{0, 3, 6}, "checkpoint", "delete", w.Name, p.ID, "--force")
	return "no checkpoint of " + p.ID
}

func (w *walk) backUp() string {
	kind := []string{"inc", "inc", "inc", "auto", "diff", "copy", "full"}[w.IntN(7)]
	if len(w.Points) == 0 {
		kind = "full"
	}
	truth := w.Truths()
	w.Add(w.Program.Must(w.t, []int{0, 3}, "--json", kind, w.Name), truth)
	return kind
}

// restore restores a point in place, which may be killed and followed by that of another point.
func (w *walk) restore() string {
	w.turnOff(nil)
	p := w.Points[w.IntN(len(w.Points))]
	killed := false
	if w.IntN(3) == 0 {
		steps := []string{"in place: write#1", "in place: zero heads after", "in place: write heads after", "in place: bitmaps removed"}
		point := "VIRTBACKUP_FAULT=" + steps[w.IntN(len(steps))] + ":kill"
		killed = faulty(w.t, w.Site, []string{point}, w.command(p, true)...).Code == 137
		if w.IntN(2) == 0 {
			p = w.Points[w.IntN(len(w.Points))]
		}
	}
	save, truth := !killed && w.IntN(2) == 0, w.Truths() // what was not killed is done
	r := w.Program.Must(w.t, []int{0, 2, 3}, w.command(p, !save)...)
	if r.Code == 2 { // the images are rolled back, and have a bitmap that was deleted since
		if !strings.Contains(r.Stderr, "would not show what the resize changes") {
			w.t.Errorf("exit %d", r.Code)
		}
		return "no restore of " + p.ID
	}
	result := resultOf(w.t, r)
	wantPoint(w.t, w.Site, p)
	if save {
		w.addSaved(result.Saved, truth)
	}
	return fmt.Sprintf("restore of %s: %+v", p.ID, result.Disks)
}

// command restores a point in place.
func (w *walk) command(p testsite.Point, noSave bool) []string {
	args := []string{"--json", "restore", w.Name + "@" + p.ID, "--in-place", "--yes"}
	if noSave {
		args = append(args, "--no-save")
	}
	return args
}

// addSaved records a point of the present state that a restore has made, if it has.
func (w *walk) addSaved(id string, truth map[string]string) {
	if id == "" {
		return
	}
	p := testsite.Point{Truth: truth}
	data, err := os.ReadFile(filepath.Join(w.Repo, w.Name, id, "manifest.json"))
	if err == nil {
		err = json.Unmarshal(data, &p.Manifest)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.Points = append(w.Points, p)
}
