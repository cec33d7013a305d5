package verify

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/qcow2"
	"github.com/virtbackup/virtbackup/repository"
)

func verified(t testing.TB, r *repository.Repository, request Request) Report {
	t.Helper()
	report, err := Run(context.Background(), r, request)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// outcome lists a domain's points with their results: "check1 ok, …".
func outcome(d DomainReport) string {
	var words []string
	for _, p := range d.Points {
		word := p.ID + " " + string(p.Status)
		if p.Status == Damaged && p.Restores {
			word += " but restores"
		}
		if len(p.LostDisks) > 0 {
			word += " without " + strings.Join(p.LostDisks, "+")
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

func TestSoundRepository(t *testing.T) {
	r, start := site(t), now()
	var mu sync.Mutex
	var read, expected int64
	report := verified(t, r, Request{Progress: func(domain string, a, b int64) {
		mu.Lock()
		defer mu.Unlock()
		read, expected = max(read, a), max(expected, b)
	}})
	if err := report.Err(); err != nil || len(report.Warnings) > 0 {
		t.Errorf("%v, %q", err, report.Warnings)
	}
	if len(report.Domains) != 1 || outcome(report.Domains[0]) != "check1 ok, check2 ok, check3 ok, diff4 ok, copy5 ok" || report.Domains[0].Newest != "copy5" {
		t.Errorf("got %+v", report.Domains)
	}
	var size int64
	files, _ := filepath.Glob(r.Dir() + "/vm1/*/vd*")
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if report.Bytes != size || read != size || expected != size {
		t.Errorf("read %d, progress %d of %d; the files have %d bytes", report.Bytes, read, expected, size)
	}
	known := r.Verified("vm1")
	for _, id := range []string{"check1", "check2", "check3", "diff4", "copy5"} {
		if v := known[id]; !v.Sound || v.Time.After(report.Time) || v.Time.Before(start) { // when it was read, not later
			t.Errorf("%s is noted as %+v", id, v)
		}
	}
}

// One point includes those that it needs, and no others.
func TestOnePoint(t *testing.T) {
	r := site(t)
	report := verified(t, r, Request{Domain: "vm1", Point: "diff4"})
	if got := outcome(report.Domains[0]); got != "check1 ok, check2 ok, check3 not checked, diff4 ok, copy5 not checked" {
		t.Errorf("got %s", got)
	}
	if known := r.Verified("vm1"); len(known) != 3 {
		t.Errorf("noted are %v", known)
	}
	for _, request := range []Request{{Domain: "vm9"}, {Domain: "vm1", Point: "check9"}, {Domain: "../vm1"}, {Domain: "vm1", Point: "../check1"}} {
		if _, err := Run(context.Background(), r, request); !errors.Is(err, manifest.ErrNoPoint) {
			t.Errorf("%+v: got %v, want ErrNoPoint", request, err)
		}
	}
	if _, err := Run(context.Background(), r, Request{Domain: "vm1", Point: "copy5"}); err != nil {
		t.Error(err)
	}
}

func flip(path string, at int64) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	data[at] ^= 1
	return os.WriteFile(path, data, 0o600)
}

// All damage is reported, with the points that it breaks and no others.
func TestDamage(t *testing.T) {
	tests := map[string]struct {
		spoil   func(file func(...string) string) error
		want    string   // outcome
		breaks  string   // of the first damage
		say     []string // in the damage, one line each
		onlyAt3 string   // outcome for vm1@check3; "" is not tried
	}{
		"image of the base": {func(f func(...string) string) error { return flip(f("check1/vda.qcow2"), 2*mib) },
			"check1 damaged without vda, check2 lost without vda, check3 lost without vda, diff4 lost without vda, copy5 ok",
			"check1 check2 check3 diff4", []string{"vm1/check1/vda.qcow2: 65536 bytes at offset 2097152: differs"}, ""},
		"image in the middle": {func(f func(...string) string) error { return flip(f("check2/vdb.qcow2"), 1000) },
			"check1 ok, check2 damaged without vdb, check3 lost without vdb, diff4 ok, copy5 ok",
			"check2 check3", []string{"vm1/check2/vdb.qcow2: "}, "check1 ok, check2 damaged without vdb, check3 lost without vdb, diff4 not checked, copy5 not checked"},
		"hash list": {func(f func(...string) string) error { return flip(f("check1/vda.hashes"), 40) },
			"check1 damaged but restores, check2 ok, check3 ok, diff4 ok, copy5 ok", "", []string{"vm1/check1/vda.hashes: 32 bytes at offset 32"}, ""},
		"checkpoint.xml": {func(f func(...string) string) error { return flip(f("check1/checkpoint.xml"), 1) },
			"check1 damaged but restores, check2 ok, check3 ok, diff4 ok, copy5 ok", "", []string{"checkpoint.xml: 17 bytes at offset 0: differs"}, ""},
		"domain.xml": {func(f func(...string) string) error { return os.Remove(f("check1/domain.xml")) },
			"check1 damaged, check2 ok, check3 ok, diff4 ok, copy5 ok", "check1", []string{"domain.xml: missing"}, ""},
		"manifest": {func(f func(...string) string) error { return flip(f("check2/manifest.json"), 30) },
			"check1 ok, check2 damaged, check3 lost without vda+vdb, diff4 lost without vda, copy5 ok",
			"check2 check3 diff4", []string{"vm1/check2/manifest.json: the point cannot be read"}, "check1 not checked, check2 damaged, check3 lost without vda+vdb, diff4 lost without vda, copy5 not checked"},
		"point missing": {func(f func(...string) string) error { return os.RemoveAll(f("check1")) },
			"check1 damaged, check2 lost without vda+vdb, check3 lost without vda+vdb, diff4 lost without vda, copy5 ok",
			"check1 check2 check3 diff4", []string{"vm1/check1: the point is missing; check2 needs it"}, ""},
		"another point of its name": {func(f func(...string) string) error {
			manifest := f("check1/manifest.json")
			other := site(t)
			return errors.Join(os.Remove(manifest), os.Link(filepath.Join(other.Dir(), "vm1/check1/manifest.json"), manifest))
		}, "check1 ok, check2 damaged without vda+vdb, check3 lost without vda+vdb, diff4 lost without vda, copy5 ok",
			"check2 check3 diff4", []string{"vm1/check2/vda.qcow2: has another check1 below it", "vm1/check2/vdb.qcow2: has another check1 below it"}, ""},
		"two places": {func(f func(...string) string) error {
			return errors.Join(flip(f("check3/vda.qcow2"), 0), os.Truncate(f("copy5/vda.qcow2"), 100), flip(f("diff4/domain.xml"), 0))
		}, "check1 ok, check2 ok, check3 damaged without vda, diff4 damaged, copy5 damaged without vda",
			"check3", []string{"check3/vda.qcow2: 65536 bytes at offset 0", "diff4/domain.xml", "copy5/vda.qcow2: "}, ""},
		"everything": {func(f func(...string) string) error {
			return errors.Join(flip(f("check1/vda.qcow2"), 0), flip(f("check1/vdb.qcow2"), 0), flip(f("copy5/vda.qcow2"), 0))
		}, "check1 damaged without vda+vdb, check2 lost without vda+vdb, check3 lost without vda+vdb, diff4 lost without vda, copy5 damaged without vda",
			"check1 check2 check3 diff4", []string{"check1/vda.qcow2", "check1/vdb.qcow2", "copy5/vda.qcow2"}, ""},
		"a name that is no point": {func(f func(...string) string) error { return os.Mkdir(f("old"), 0o700) },
			"old damaged, check1 ok, check2 ok, check3 ok, diff4 ok, copy5 ok", "old", []string{"vm1/old/manifest.json: the point cannot be read"}, ""},
	}
	whole := site(t)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := copyOf(t, whole)
			file := func(parts ...string) string {
				return filepath.Join(append([]string{r.Dir(), "vm1"}, parts...)...)
			}
			if err := tt.spoil(file); err != nil {
				t.Fatal(err)
			}
			report := verified(t, r, Request{})
			if err := report.Err(); !fail.Is(err, fail.Damaged) {
				t.Errorf("got %v, want damage", err)
			}
			if got := outcome(report.Domains[0]); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if len(report.Damage) != len(tt.say) {
				t.Fatalf("damage %v, want %d", report.Damage, len(tt.say))
			}
			for i, d := range report.Damage {
				if !strings.Contains(d.String(), tt.say[i]) {
					t.Errorf("got %s\nwant %s", d, tt.say[i])
				}
			}
			if got := strings.Join(report.Damage[0].Breaks, " "); got != tt.breaks {
				t.Errorf("breaks %s, want %s", got, tt.breaks)
			}
			for id, v := range r.Verified("vm1") {
				if v.Sound != slices.Contains(report.Domains[0].Restores, id) {
					t.Errorf("%s is noted as sound: %v", id, v.Sound)
				}
			}
			if tt.onlyAt3 != "" {
				if got := outcome(verified(t, r, Request{Domain: "vm1", Point: "check3"}).Domains[0]); got != tt.onlyAt3 {
					t.Errorf("check3 alone: got  %s\nwant %s", got, tt.onlyAt3)
				}
			}
		})
	}
}

// The reported ranges of the disk are those whose bytes change.
func TestGuestRanges(t *testing.T) {
	r := site(t)
	image := filepath.Join(r.Dir(), "vm1/copy5/vda.qcow2")
	before := flatten(t, image)
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	for i := mib; i < 2*mib; i++ {
		data[i] ^= 0x55
	}
	if err := os.WriteFile(image, data, 0o600); err != nil {
		t.Fatal(err)
	}
	after := flatten(t, image)
	report := verified(t, r, Request{Domain: "vm1", Point: "copy5"})
	if len(report.Damage) != 1 || report.Damage[0].WholeDisk || len(report.Damage[0].Guest) == 0 {
		t.Fatalf("got %+v", report.Damage)
	}
	changed := map[int64]bool{}
	for i := range before {
		if before[i] != after[i] {
			changed[int64(i)/cluster] = true
		}
	}
	var clusters int64
	for _, g := range report.Damage[0].Guest {
		clusters += g.Length / cluster
		for at := g.Offset; at < g.Offset+g.Length; at += cluster {
			if !changed[at/cluster] {
				t.Errorf("offset %d is named and did not change", at)
			}
		}
	}
	if clusters != int64(len(changed)) {
		t.Errorf("%d clusters are named, %d changed", clusters, len(changed))
	}
}

func flatten(t *testing.T, image string) []byte {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	if out, err := exec.Command("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// An image that is as it was written, but is not valid qcow2, is damage, too: qemu-img, not
// this program, is the judge. It opens only that file.
func TestStructure(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "image, with: odd=name.qcow2")
	for _, args := range [][]string{
		{"create", "-q", "-f", "qcow2", image, "1M"},
		{"rebase", "-q", "-u", "-f", "qcow2", "-b", "nbd:unix:" + dir + "/nobody.sock", "-F", "raw", image},
	} {
		if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if faults, err := checkStructure(context.Background(), image); faults != "" || err != nil {
		t.Errorf("sound: %q, %v", faults, err)
	}
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, append(data, make([]byte, cluster)...), 0o600); err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint64(data[40:], 7*cluster) // the L1 table, elsewhere
	for _, spoilt := range [][]byte{data, data[:100], []byte("nonsense")} {
		if err := os.WriteFile(image, spoilt, 0o600); err != nil {
			t.Fatal(err)
		}
		if faults, err := checkStructure(context.Background(), image); faults == "" || err != nil {
			t.Errorf("spoilt: %q, %v", faults, err)
		}
	}
	t.Setenv("PATH", dir)
	if _, err := checkStructure(context.Background(), image); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("without qemu-img: %v", err)
	}
	if report := verified(t, site(t), Request{}); len(report.Warnings) != 1 || report.Err() != nil {
		t.Errorf("without qemu-img: %q, %v", report.Warnings, report.Err())
	}
}

func TestEndsWithItsContext(t *testing.T) {
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(why)
	if _, err := Run(ctx, site(t), Request{}); !errors.Is(err, why) {
		t.Errorf("got %v, want the cause", err)
	}
}

// BenchmarkVerify compares with reading the same files past the page cache, with the best
// number of readers.
func BenchmarkVerify(b *testing.B) {
	r, err := repository.Create(filepath.Join(b.TempDir(), "repo"))
	if err != nil {
		b.Fatal(err)
	}
	l, err := r.Lock("vm1")
	if err != nil {
		b.Fatal(err)
	}
	p, err := l.Begin("check1", testIdentity)
	if err != nil {
		b.Fatal(err)
	}
	const clusters = 16 << 10 // 1 GiB
	writeImage(b, p, "vda", qcow2.Options{VirtualSize: 64 << 30}, clusters)
	if err := p.WriteFile(manifest.DomainXML, nil); err != nil {
		b.Fatal(err)
	}
	now := time.Now().UTC()
	if err := p.Seal(manifest.Manifest{ID: "check1", Kind: manifest.KindFull, Domain: "vm1", DomainUUID: uuid, Time: now, Finished: now,
		Consistency: manifest.ConsistencyCrash, Disks: []manifest.Disk{{Target: "vda", Kind: manifest.KindFull, VirtualSize: 64 << 30}}}); err != nil {
		b.Fatal(err)
	}
	image := filepath.Join(r.Dir(), "vm1/check1/vda.qcow2")
	for _, readers := range []int{1, 2, 4, 8} {
		b.Run(fmt.Sprintf("read with %d", readers), func(b *testing.B) {
			for range b.N {
				b.SetBytes(readAll(b, image, readers))
			}
		})
	}
	b.Run("verify", func(b *testing.B) {
		for range b.N {
			report := verified(b, r, Request{})
			if err := report.Err(); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(report.Bytes)
		}
	})
}

func readAll(b *testing.B, path string, readers int) int64 {
	b.Helper()
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	reader, err := directio.NewReader(f)
	if err != nil {
		b.Fatal(err)
	}
	var wait sync.WaitGroup
	const piece = 2 * mib
	for i := range readers {
		wait.Go(func() {
			buf := directio.Buffer(piece)
			if uintptr(unsafe.Pointer(&buf[0]))%4096 != 0 {
				b.Error("not aligned")
			}
			for at := int64(i) * piece; at < info.Size(); at += int64(readers) * piece {
				if _, err := reader.ReadPiece(buf, at); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wait.Wait()
	return info.Size()
}

// If the list of identities cannot be read now, everything else is still reported.
func TestDamageIsToldWithoutInstants(t *testing.T) {
	r := site(t)
	if err := flip(filepath.Join(r.PointDir("vm1", "check2"), "vda.qcow2"), 70000); err != nil {
		t.Fatal(err)
	}
	// The file is larger than the limit for reading it: that is not damage of its content.
	if err := os.WriteFile(filepath.Join(r.Dir(), "vm1", instants.FileName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(r.Dir(), "vm1", instants.FileName), 256<<20); err != nil {
		t.Fatal(err)
	}
	report, err := Run(t.Context(), r, Request{})
	if err != nil || len(report.Damage) == 0 || len(report.Warnings) != 1 || len(r.Verified("vm1")) == 0 {
		t.Errorf("damage %v, warnings %v, noted %v: %v", report.Damage, report.Warnings, r.Verified("vm1"), err)
	}
}
