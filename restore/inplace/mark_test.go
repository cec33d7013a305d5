package inplace

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/xml"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newRun is a run on a locked domain that has n points.
func newRun(t *testing.T, n int) *run {
	t.Helper()
	repo, err := repository.Create(t.TempDir())
	must(t, err)
	lock, err := repo.Lock("vm1")
	must(t, err)
	t.Cleanup(func() { must(t, lock.Unlock()) })
	for i := range n {
		addPoint(t, lock, i+1)
	}
	r := &run{Request: Request{Domain: "vm1"}.withDefaults(), Deps: Deps{Repository: repo}, lock: lock}
	return r
}

// addPoint seals point checkN, a full of a disk of 1 MiB.
func addPoint(t *testing.T, lock *repository.Lock, n int) {
	t.Helper()
	const size = 1 << 20
	p, err := lock.Begin(fmt.Sprintf("check%d", n), fmt.Sprintf("%016x", n))
	must(t, err)
	must(t, p.WriteFile(manifest.DomainXML, []byte("<domain/>")))
	image, err := p.CreateImage("vda", directio.Auto)
	must(t, err)
	w, err := qcow2.NewWriter(image, qcow2.Options{VirtualSize: size})
	must(t, err)
	_, err = w.Finish(image.Sync)
	must(t, err)
	_, _, err = image.Finish()
	must(t, err)
	must(t, p.Seal(manifest.Manifest{ID: p.ID(), Kind: manifest.KindFull, Domain: "vm1", DomainUUID: "11111111-2222-3333-4444-555555555555",
		Time: time.Date(2026, 1, 1, 0, 0, n, 0, time.UTC), Consistency: manifest.ConsistencyCrash,
		Disks: []manifest.Disk{{Target: "vda", Kind: manifest.KindFull, VirtualSize: size}}}))
}

// What a killed restore leaves decides what the same request means, and no other one.
func TestChoose(t *testing.T) {
	const points = 3
	tests := []struct {
		name    string
		left    *mark
		at      string
		want    string // point; "" if it is not clear
		resumed bool
	}{
		{"nothing is left", nil, "latest", "check3", false},
		{"before it saved", &mark{At: "latest", Point: "check3", Next: 4}, "latest", "check3", false},
		{"after it saved", &mark{At: "latest", Point: "check2", Next: 3}, "latest", "check2", false},
		{"after it saved, another request", &mark{At: "2026-01-01", Point: "check2", Next: 3}, "latest", "check3", false},
		{"after it saved, a point by its id", &mark{At: "latest", Point: "check2", Next: 3}, "check1", "check1", false},
		{"it began long ago", &mark{At: "latest", Point: "check1", Next: 2}, "latest", "check3", false},
		{"it wrote", &mark{At: "latest", Point: "check2", Next: 3, Writing: true}, "latest", "check2", true},
		{"it wrote, to another point", &mark{At: "latest", Point: "check2", Next: 3, Writing: true}, "check1", "check1", true},
		{"it wrote long ago", &mark{At: "latest", Point: "check1", Next: 2, Writing: true}, "latest", "", false},
		{"it wrote, another request", &mark{At: "check1", Point: "check1", Next: 3, Saved: "check3", Writing: true}, "latest", "", false},
		{"it wrote long ago, the point by its id", &mark{At: "latest", Point: "check1", Next: 2, Writing: true}, "check1", "check1", true},
		{"it wrote, and saved nothing", &mark{At: "latest", Point: "check3", Next: 4, Writing: true}, "latest", "check3", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRun(t, points)
			if tt.left != nil {
				r.mark = *tt.left
				must(t, r.setMark())
				r.mark = mark{}
			}
			r.At = tt.at
			err := r.choose()
			if tt.want == "" {
				if !fail.Is(err, fail.Usage) || !strings.Contains(fail.HintOf(err), "vm1@check1") {
					t.Errorf("%v, hint %s", err, fail.HintOf(err))
				}
				return
			}
			must(t, err)
			if r.chosen.ID != tt.want || r.mark.Point != tt.want || r.result.Resumed != tt.resumed {
				t.Errorf("%s, mark %+v, resumed %v", r.chosen.ID, r.mark, r.result.Resumed)
			}
		})
	}
}

// A mark that was cut short stands for a restore that wrote.
func TestMarkCutShort(t *testing.T) {
	r := newRun(t, 1)
	must(t, r.lock.SetMark(markWriting, []byte(`{"at":"la`)))
	must(t, r.choose())
	if !r.result.Resumed || r.chosen.ID != "check1" {
		t.Errorf("resumed %v, %s", r.result.Resumed, r.chosen.ID)
	}
}

// The mark of a restore that writes takes the place of the one that has begun; both go.
func TestMarks(t *testing.T) {
	r := newRun(t, 1)
	for _, writing := range []bool{false, true} {
		r.mark = mark{At: "latest", Point: "check1", Writing: writing, Autostart: writing, Disks: []string{"vda"}}
		must(t, r.setMark())
		got, ok, err := r.readMark()
		if err != nil || !ok || !reflect.DeepEqual(got, r.mark) {
			t.Errorf("%+v, %v, %v; want %+v", got, ok, err, r.mark)
		}
	}
	if _, ok, _ := r.lock.Mark(markBegun); ok {
		t.Error("both marks are there")
	}
	must(t, r.clearMark())
	if _, ok, err := r.readMark(); ok || err != nil {
		t.Errorf("a mark is left: %v", err)
	}
}

// The mark of a restore that writes is not this one's to remove, as long as it does not write itself.
func TestAbandonLeavesTheMarkOfAnother(t *testing.T) {
	r := newRun(t, 1)
	must(t, r.choose())
	must(t, r.setMark())
	must(t, r.lock.SetMark(markWriting, []byte(`{"at":"latest","point":"check1"}`)))
	must(t, r.abandon())
	if _, left, err := r.lock.Mark(markWriting); err != nil || !left {
		t.Errorf("it is gone: %v", err)
	}
	if _, left, err := r.lock.Mark(markBegun); err != nil || left {
		t.Errorf("its own mark is left: %v", err)
	}
}

// That the disks hold a crash-consistent state is forgotten only once all of them hold another.
func TestNoteConsistency(t *testing.T) {
	r := newRun(t, 1)
	r.described = xml.Domain{Disks: []xml.Disk{{Target: "vda", Source: "/a"}, {Target: "vdb", Source: "/b"}}}
	for _, tt := range []struct {
		consistency string
		disks       []string
		want        bool
	}{
		{manifest.ConsistencyFilesystem, []string{"vda", "vdb"}, false},
		{manifest.ConsistencyFilesystem, []string{"vdb"}, false},
		{manifest.ConsistencyCrash, []string{"vda"}, true},
		{manifest.ConsistencyFilesystem, []string{"vdb"}, true},
		{manifest.ConsistencyFilesystem, []string{"vda", "vdb"}, false},
	} {
		r.chosen.Consistency, r.disks = tt.consistency, nil
		for _, target := range tt.disks {
			r.disks = append(r.disks, &disk{Disk: Disk{Target: target}})
		}
		must(t, r.noteConsistency(t.Context()))
		if _, left, err := r.lock.Mark(repository.MarkPutBack); err != nil || left != tt.want {
			t.Errorf("%+v: marked %v, %v", tt, left, err)
		}
	}
}
