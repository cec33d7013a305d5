package verify

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/bitset"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/repository"
)

// withoutQemuImg lets runs go without starting processes, which take most of their time.
func withoutQemuImg(t *testing.T) { t.Setenv("PATH", t.TempDir()) }

// readRanges collects the ranges of the images that are read, by the paths of the images.
func readRanges(t *testing.T) func() map[string]*bitset.Set {
	var mu sync.Mutex
	read := map[string]*bitset.Set{}
	note := func(path string, offset int64, p []byte) {
		mu.Lock()
		defer mu.Unlock()
		if read[path] == nil {
			read[path] = &bitset.Set{}
		}
		for at := offset; at < offset+int64(len(p)); at += cluster {
			read[path].Add(at / cluster)
		}
	}
	directio.OnRead.Store(&note)
	t.Cleanup(func() { directio.OnRead.Store(nil) })
	return func() map[string]*bitset.Set {
		mu.Lock()
		defer mu.Unlock()
		was := read
		read = map[string]*bitset.Set{}
		return was
	}
}

// tablesOf are the ranges of an image that are not the data of the disk.
func tablesOf(t *testing.T, path string) (tables *bitset.Set, ranges int64) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h, err := qcow2.ReadHeader(strings.NewReader(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	ofData := map[int64]bool{}
	for i := range h.Tables() {
		table := qcow2.TableOffset(binary.BigEndian.Uint64(data[h.L1Offset+8*i:]))
		for at := table; table != 0 && at < table+cluster; at += 8 {
			if host := int64(binary.BigEndian.Uint64(data[at:]) & 0x00fffffffffffe00); host != 0 {
				ofData[host/cluster] = true
			}
		}
	}
	tables, ranges = &bitset.Set{}, (int64(len(data))+cluster-1)/cluster
	for i := range ranges {
		if !ofData[i] {
			tables.Add(i)
		}
	}
	return tables, ranges
}

// Ten runs over points that do not change read every byte, each a tenth and the tables, and
// only then are the points verified, since the first.
func TestSamplesProveEveryByte(t *testing.T) {
	withoutQemuImg(t)
	for sample, runs := range map[int]int{1: 100, 10: 10, 33: 4, 100: 1} {
		r := site(t)
		taken := readRanges(t)
		var first time.Time
		all := map[string]*bitset.Set{}
		for i := 1; i <= runs; i++ {
			report := verified(t, r, Request{Domain: "vm1", Point: "check2", Sample: sample})
			if i == 1 {
				first = report.Time
			}
			for path, read := range taken() {
				tables, ranges := tablesOf(t, path)
				if most := ranges*int64(sample)/100 + 1 + tables.Len(); read.Len() > most {
					t.Errorf("sample %d: %s: %d of %d ranges read, want %d at most", sample, path, read.Len(), ranges, most)
				}
				if all[path] == nil {
					all[path] = &bitset.Set{}
				}
				for at := read.Next(0); at >= 0; at = read.Next(at + 1) {
					all[path].Add(at)
				}
			}
			p := report.Domains[0].Points[1]
			v, known := r.Verified("vm1")["check2"]
			switch done := i == runs; {
			case known != done || done && !v.Sound || p.Restores != done || report.Err() != nil || done != (p.ProvenPercent == 0):
				t.Errorf("sample %d, run %d: known %+v, report %+v, %v", sample, i, v, p, report.Damage)
			case !done && p.ProvenPercent != i*sample:
				t.Errorf("sample %d, run %d: %d%% proven", sample, i, p.ProvenPercent)
			case done && (v.Time.After(report.Time) || v.Time.Before(first.Add(-time.Minute)) || runs > 1 && !v.Time.Before(report.Time) || !p.Verified.Equal(v.Time)):
				t.Errorf("sample %d: verified %v, the first run was at %v, the last at %v", sample, v.Time, first, report.Time)
			}
		}
		for path, read := range all {
			if _, ranges := tablesOf(t, path); read.Len() != ranges {
				t.Errorf("sample %d: %s: %d of %d ranges read in all", sample, path, read.Len(), ranges)
			}
		}
		if len(all) != 4 {
			t.Errorf("%d images read, want those of two points", len(all))
		}
	}
}

// A flipped byte anywhere in a file of a point is found within ten runs, as a run that reads
// everything finds it; when it is repaired, the point counts as damaged until all was read again.
func TestSamplesFindEveryByte(t *testing.T) {
	withoutQemuImg(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	r := site(t)
	files, err := filepath.Glob(filepath.Join(r.PointDir("vm1", "check2"), "*"))
	if err != nil || len(files) != 7 {
		t.Fatalf("%v, %v", files, err)
	}
	request := Request{Domain: "vm1", Point: "check2", Sample: 10}
	for _, path := range slices.Repeat(files, 2) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		at := rnd.Int64N(info.Size())
		if err := flip(path, at); err != nil {
			t.Fatal(err)
		}
		place, err := foundWithin(r, request, 10)
		if err != nil || place != filepath.Join("vm1", "check2", filepath.Base(path)) {
			t.Errorf("seed %d: byte %d of %s flipped: found %q, %v", seed, at, path, place, err)
		}
		whole := verified(t, copyOf(t, r), Request{Domain: "vm1", Point: "check2"})
		if len(whole.Damage) != 1 {
			t.Errorf("seed %d: byte %d of %s: all of it: %v", seed, at, path, whole.Damage)
		}
		harmless := strings.HasSuffix(path, ".hashes") || strings.HasSuffix(path, "checkpoint.xml")
		noted := r.Verified("vm1")["check2"]
		isManifest := filepath.Base(path) == manifest.FileName
		if !isManifest && (noted.Manifest != "" && !noted.Sound) == harmless {
			t.Errorf("seed %d: %s: noted %+v", seed, path, noted)
		}
		if err := flip(path, at); err != nil {
			t.Fatal(err)
		}
		if noted := r.Verified("vm1")["check2"]; noted.Sound && !harmless && !isManifest {
			t.Errorf("seed %d: %s repaired and not read: noted %+v", seed, path, noted)
		}
		all := Request{Domain: "vm1", Point: "check2", Sample: 100}
		if place, err := foundWithin(r, all, 1); err != nil || place != "" {
			t.Errorf("seed %d: %s repaired: found %s, %v", seed, path, place, err)
		}
		if noted := r.Verified("vm1")["check2"]; !noted.Sound {
			t.Errorf("seed %d: %s repaired and read: noted %+v", seed, path, noted)
		}
	}
}

// foundWithin runs until damage is found.
func foundWithin(r *repository.Repository, request Request, runs int) (place string, err error) {
	for range runs {
		report, err := Run(context.Background(), r, request)
		if err != nil || len(report.Damage) > 0 {
			if err == nil {
				place = report.Damage[0].File
			}
			return place, err
		}
	}
	return "", nil
}

// A sample that finds damage says the same as a run that reads everything.
func TestSampleReportsAsEverything(t *testing.T) {
	r := site(t)
	if err := errors.Join(flip(filepath.Join(r.PointDir("vm1", "check1"), "vda.qcow2"), 2*mib), flip(filepath.Join(r.PointDir("vm1", "copy5"), "vda.hashes"), 50)); err != nil {
		t.Fatal(err)
	}
	want := verified(t, copyOf(t, r), Request{})
	got := verified(t, r, Request{Sample: 100})
	if len(want.Damage) != 2 || len(got.Damage) != 2 {
		t.Fatalf("got %v, want %v", got.Damage, want.Damage)
	}
	for i, d := range got.Damage {
		if d.String() != want.Damage[i].String() || !slices.Equal(d.Breaks, want.Damage[i].Breaks) || !slices.Equal(d.Guest, want.Damage[i].Guest) {
			t.Errorf("got  %+v\nwant %+v", d, want.Damage[i])
		}
	}
	if doubts := r.Doubts("vm1"); len(doubts) != 4 || len(got.Domains[0].Lost) != 4 || got.Domains[0].Newest != "copy5" {
		t.Errorf("doubts %v, report %+v", doubts, got.Domains[0])
	}
}

// A quick run reads no data, finds what is wrong with all else, and never counts as verified.
func TestQuick(t *testing.T) {
	whole := site(t)
	taken := readRanges(t)
	report := verified(t, whole, Request{Quick: true})
	for path, read := range taken() {
		tables, _ := tablesOf(t, path)
		for at := read.Next(0); at >= 0; at = read.Next(at + 1) {
			if !tables.Has(at) {
				t.Errorf("%s: range %d is read, which is data", path, at)
			}
		}
		if read.Len() != tables.Len() {
			t.Errorf("%s: %d of %d ranges with tables read", path, read.Len(), tables.Len())
		}
	}
	if got := outcome(report.Domains[0]); report.Err() != nil || got != "check1 quick, check2 quick, check3 quick, diff4 quick, copy5 quick" || len(report.Domains[0].Restores) > 0 {
		t.Errorf("%s, %v, %+v", got, report.Err(), report.Domains[0].Restores)
	}
	if _, err := os.Stat(filepath.Join(whole.Dir(), "vm1", repository.VerifiedName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was noted: %v", err)
	}
	image := func(r *repository.Repository) string { return filepath.Join(r.PointDir("vm1", "check2"), "vda.qcow2") }
	data, err := os.ReadFile(image(whole))
	if err != nil {
		t.Fatal(err)
	}
	h, err := qcow2.ReadHeader(strings.NewReader(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	entry := func(at int64) int64 { return qcow2.TableOffset(binary.BigEndian.Uint64(data[at:])) }
	l2, block := entry(h.L1Offset), entry(h.RefcountTableOffset)
	withoutQemuImg(t) // our part alone finds all of this
	in := func(file string) func(*repository.Repository) string {
		return func(r *repository.Repository) string { return filepath.Join(r.PointDir("vm1", "check2"), file) }
	}
	for name, tt := range map[string]struct {
		file  func(*repository.Repository) string
		spoil func(path string) error
		found bool
	}{
		"header":         {image, func(p string) error { return flip(p, 300) }, true},
		"L1 table":       {image, func(p string) error { return flip(p, h.L1Offset+7) }, true},
		"L2 table":       {image, func(p string) error { return flip(p, l2+cluster-1) }, true},
		"refcount table": {image, func(p string) error { return flip(p, h.RefcountTableOffset+100) }, true},
		"refcount block": {image, func(p string) error { return flip(p, block+cluster-1) }, true},
		"truncated":      {image, func(p string) error { return os.Truncate(p, int64(len(data))-1) }, true},
		"appended":       {image, func(p string) error { return os.Truncate(p, int64(len(data))+1) }, true},
		"image missing":  {image, os.Remove, true},
		"list missing":   {in("vda.hashes"), os.Remove, true},
		"list":           {in("vdb.hashes"), func(p string) error { return flip(p, 100) }, true},
		"domain.xml":     {in("domain.xml"), func(p string) error { return flip(p, 1) }, true},
		"xml missing":    {in("domain.xml"), os.Remove, true},
		"manifest":       {in("manifest.json"), func(p string) error { return flip(p, 50) }, true},
		"data":           {image, func(p string) error { return flip(p, dataOf(t, p)) }, false}, // what only reading it finds
	} {
		r := copyOf(t, whole)
		path := tt.file(r)
		if err := tt.spoil(path); err != nil {
			t.Fatal(err)
		}
		report := verified(t, r, Request{Quick: true})
		if found := len(report.Damage) == 1 && report.Damage[0].File == filepath.Join("vm1/check2", filepath.Base(path)); found != tt.found || !found && len(report.Damage) > 0 {
			t.Errorf("%s: %v", name, report.Damage)
		}
		var damaged *DamagedError
		if err := report.Err(); errors.As(err, &damaged) && (strings.Contains(err.Error()+damaged.Hint(), "that restores") || strings.Contains(err.Error(), "still restores")) {
			t.Errorf("%s: a quick run says what it does not know: %v, %s", name, err, damaged.Hint())
		}
		for id, v := range r.Verified("vm1") {
			if v.Sound {
				t.Errorf("%s: %s is noted as verified", name, id)
			}
		}
		if doubts, lost := r.Doubts("vm1"), len(report.Damage) > 0 && len(report.Damage[0].Breaks) > 1; (len(doubts) > 0) != lost {
			t.Errorf("%s: doubts %v, breaks %v", name, doubts, report.Damage)
		}
	}
}

// A quick run takes back nothing of what others have found.
func TestQuickTakesNoDoubtBack(t *testing.T) {
	withoutQemuImg(t)
	r := site(t)
	path := filepath.Join(r.PointDir("vm1", "check1"), "domain.xml")
	if err := flip(path, 1); err != nil {
		t.Fatal(err)
	}
	verified(t, r, Request{})
	if err := flip(path, 1); err != nil {
		t.Fatal(err)
	}
	record(t, r, func(before string) string {
		verified(t, r, Request{Quick: true})
		after, err := os.ReadFile(filepath.Join(r.Dir(), "vm1", repository.VerifiedName))
		if err != nil || string(after) != before {
			t.Errorf("before %s\nafter %s, %v", before, after, err)
		}
		return before
	})
	if noted := r.Verified("vm1")["check1"]; noted.Sound || noted.Manifest == "" {
		t.Errorf("noted %+v", noted)
	}
	verified(t, r, Request{Sample: 1})
	if noted := r.Verified("vm1"); !noted["check1"].Sound {
		t.Errorf("a sample has noted %+v", noted["check1"])
	}
}

// dataOf is the offset of some data of an image.
func dataOf(t *testing.T, path string) int64 {
	tables, ranges := tablesOf(t, path)
	for i := range ranges {
		if !tables.Has(i) {
			return i*cluster + 5
		}
	}
	t.Fatal("no data")
	return 0
}

// With a limit of time one point is read after another, those first that were never, and then
// those read longest ago; a run that is ended goes on with the next.
func TestMaxDuration(t *testing.T) {
	withoutQemuImg(t)
	r := site(t)
	hide(t, r, "check1")
	for i, want := range []string{"check1", "check2", "check3", "diff4", "copy5", "check1", "check2"} {
		report := verified(t, r, Request{MaxDuration: 1})
		var checked []string
		for _, p := range report.Domains[0].Points {
			if p.Status != NotChecked {
				checked = append(checked, p.ID)
			}
		}
		if len(checked) != 1 || checked[0] != want || len(report.Domains[0].Left) != 4 || slices.Contains(report.Domains[0].Left, want) {
			t.Errorf("run %d: checked %v, want %s; left %v", i, checked, want, report.Domains[0].Left)
		}
		if !slices.Contains(report.Warnings, "4 points are left: the next run begins with them") {
			t.Errorf("run %d: no warning of what is left: %q", i, report.Warnings)
		}
		if noted := r.Verified("vm1"); len(noted) != min(i+1, 5) {
			t.Errorf("run %d: noted %v", i, noted)
		}
	}
	report := verified(t, r, Request{MaxDuration: time.Hour})
	if got := outcome(report.Domains[0]); got != "check1 ok, check2 ok, check3 ok, diff4 ok, copy5 ok" || len(report.Domains[0].Left) > 0 || len(report.Domains[0].Restores) != 4 {
		t.Errorf("%s, %+v", got, report.Domains[0])
	}
	if slices.ContainsFunc(report.Warnings, func(w string) bool { return strings.Contains(w, "left") }) {
		t.Errorf("nothing is left: %q", report.Warnings)
	}
	known := r.Verified("vm1")
	if known["check3"].Time.After(known["check2"].Time) || known["check2"].Time.After(known["check1"].Time) {
		t.Errorf("a point is verified no longer than what it needs: %v", known)
	}
}

// A run that is ended between two points was not for nothing.
func TestEndedRunGoesOn(t *testing.T) {
	withoutQemuImg(t)
	r := site(t)
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("killed")
	log := slog.New(handler{slog.DiscardHandler, func(text string) {
		if strings.HasSuffix(text, "reading check3") {
			cancel(why)
		}
	}})
	if _, err := Run(ctx, r, Request{MaxDuration: time.Hour, Sample: 100, Log: log}); !errors.Is(err, why) {
		t.Fatalf("got %v", err)
	}
	if noted := r.Verified("vm1"); len(noted) != 2 || !noted["check1"].Sound || !noted["check2"].Sound {
		t.Errorf("noted %v", noted)
	}
	if report := verified(t, r, Request{MaxDuration: 1}); !slices.Equal(report.Domains[0].Left, []string{"check1", "check2", "diff4", "copy5"}) {
		t.Errorf("left %v", report.Domains[0].Left)
	}
}

// handler calls a function with each message.
type handler struct {
	slog.Handler
	each func(string)
}

func (h handler) Enabled(context.Context, slog.Level) bool { return true }

func (h handler) Handle(_ context.Context, r slog.Record) error {
	h.each(r.Message)
	return nil
}

// Of two runs at the same time, neither loses what the other has noted.
func TestRunsSideBySide(t *testing.T) {
	withoutQemuImg(t)
	r := site(t)
	for range 5 {
		var both sync.WaitGroup
		for _, id := range []string{"check1", "copy5"} {
			both.Go(func() {
				if report, err := Run(context.Background(), r, Request{Domain: "vm1", Point: id, Sample: 20}); err != nil || report.Err() != nil {
					t.Errorf("%v, %v", err, report.Damage)
				}
			})
		}
		both.Wait()
	}
	if noted := r.Verified("vm1"); len(noted) != 2 || !noted["check1"].Sound || !noted["copy5"].Sound {
		t.Errorf("noted %v", noted)
	}
}

// record changes verified.json as a person with an editor.
func record(t *testing.T, r *repository.Repository, change func(text string) string) {
	t.Helper()
	path := filepath.Join(r.Dir(), "vm1", repository.VerifiedName)
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(change(string(data))), 0o600); err != nil {
		t.Fatal(err)
	}
}

// What a clock that was wrong, another manifest or another hand has left in the record counts
// as never, and is read first.
func TestRecordThatIsWrong(t *testing.T) {
	withoutQemuImg(t)
	percent := func(r *repository.Repository) int {
		l, err := r.Lineage("vm1")
		if err != nil {
			t.Fatal(err)
		}
		return r.Proofs(l).Percent()["check1"]
	}
	whole := site(t)
	verified(t, whole, Request{Domain: "vm1", Point: "check1", Sample: 50})
	dates := func(text string) string { // of the first half
		_, after, _ := strings.Cut(text, `"50:`)
		date, _, _ := strings.Cut(after, " ")
		return date
	}
	for name, tt := range map[string]struct {
		change func(string) string
		want   int
	}{
		"as it was":        {func(s string) string { return s }, 50},
		"from the future":  {func(s string) string { return strings.ReplaceAll(s, dates(s), "9"+dates(s)) }, 0},
		"another manifest": {func(s string) string { return strings.ReplaceAll(s, `"blake3:`, `"blake3:0`) }, 0},
		"no dates":         {func(s string) string { return strings.ReplaceAll(s, "50:", "51:") }, 0},
		"no JSON":          {func(s string) string { return s[1:] }, 0},
		"no object":        {func(s string) string { return strings.ReplaceAll(s, `"files": {`, `"files": 5, "x": {`) }, 0},
		"empty":            {func(string) string { return "" }, 0},
	} {
		r := copyOf(t, whole)
		record(t, r, tt.change)
		if got := percent(r); got != tt.want {
			t.Errorf("%s: %d%% proven, want %d", name, got, tt.want)
		}
		report := verified(t, r, Request{Domain: "vm1", Point: "check1", Sample: 50})
		if restores := report.Domains[0].Points[0].Restores; restores != (tt.want == 50) {
			t.Errorf("%s: verified %v after another half", name, restores)
		}
	}
	r := copyOf(t, whole)
	verified(t, r, Request{})
	record(t, r, func(s string) string { return strings.ReplaceAll(s, time.Now().UTC().Format(`"2006-`), `"2099-`) })
	if noted := r.Verified("vm1"); len(noted) > 0 {
		t.Errorf("verified in the future: %v", noted)
	}
}

// A point that was replaced is proven anew; what others had proven of themselves stays.
func TestReplacedPointStartsAnew(t *testing.T) {
	withoutQemuImg(t)
	r := site(t)
	verified(t, r, Request{Sample: 50})
	m, err := r.Point("vm1", "check1")
	if err != nil {
		t.Fatal(err)
	}
	m.Warnings = []string{"merged"}
	data, err := manifest.Encode(m)
	if err := errors.Join(err, os.WriteFile(filepath.Join(r.PointDir("vm1", "check1"), manifest.FileName), data, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, p := range verified(t, r, Request{Sample: 50}).Domains[0].Points {
		if whole := p.ID == "copy5"; p.Restores != whole || !whole && p.ProvenPercent != 50 {
			t.Errorf("after another half: %+v", p)
		}
	}
	if report := verified(t, r, Request{Sample: 50}); len(report.Domains[0].Restores) != 5 {
		t.Errorf("then: restores %v", report.Domains[0].Restores)
	}
}

// What earlier versions read of the file says "sound" of verified points only, and nothing of
// points proven in part.
func TestOldVersionsReadTheRecord(t *testing.T) {
	withoutQemuImg(t)
	r := site(t)
	old := func() map[string]repository.Verification {
		var f struct {
			Format int
			Points map[string]repository.Verification
		}
		data, err := os.ReadFile(filepath.Join(r.Dir(), "vm1", repository.VerifiedName))
		if err := errors.Join(err, json.Unmarshal(data, &f)); err != nil || f.Format != 2 {
			t.Fatal(err, f.Format)
		}
		return f.Points
	}
	verified(t, r, Request{Sample: 99})
	if points := old(); len(points) > 0 {
		t.Errorf("proven in part: %v", points)
	}
	verified(t, r, Request{Sample: 1})
	if points := old(); len(points) != 5 || !points["check3"].Sound {
		t.Errorf("proven: %v", points)
	}
	// An earlier version drops what it does not know, and its word counts for all parts.
	record(t, r, func(string) string {
		data, err := json.Marshal(map[string]any{"format": 2, "points": old()})
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	})
	if noted := r.Verified("vm1"); len(noted) != 5 {
		t.Errorf("noted %v", noted)
	}
	// A base that has lost a part takes those that need it with it, and others not.
	if err := flip(filepath.Join(r.PointDir("vm1", "check2"), "vdb.qcow2"), 0); err != nil {
		t.Fatal(err)
	}
	verified(t, r, Request{Sample: 1})
	for id, v := range old() {
		if damaged := id == "check2" || id == "check3"; v.Sound == damaged || damaged != slices.Equal(v.Lost, []string{"vdb"}) {
			t.Errorf("%s: %+v", id, v)
		}
	}
}

// Parts follow each other and are all of an image, whatever its length.
func TestPartsAreTheImage(t *testing.T) {
	for _, n := range []int64{0, 1, 7, 99, 100, 101, 12345, 1 << 46} {
		next := int64(0)
		for part := range repository.Parts {
			first, end := partOf(part, n)
			if first != next || end < first || end-first > n/repository.Parts+1 {
				t.Errorf("%d ranges, part %d: %d to %d", n, part, first, end)
			}
			next = end
		}
		if next != n {
			t.Errorf("%d ranges: the parts end at %d", n, next)
		}
	}
}
