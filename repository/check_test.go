package repository

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/pointfile"
)

// checkedLength is that of the image of oneImage: three ranges and a short one.
func checkedLength(unit int64) int64 { return 3*unit + unit/16 }

// oneImage makes a repository with one point of one image, whose content is no
// qcow2 image but for its header, and whose hash list has ranges of this length.
func oneImage(t testing.TB, unit int64) (*Repository, manifest.Manifest) {
	t.Helper()
	r := newRepository(t)
	l := mustLock(t, r, "vm1")
	p, m := makePartial(t, l, point{id: "check1", kind: manifest.KindFull})
	im, err := p.CreateImage("vda", directio.Auto)
	if err != nil {
		t.Fatal(err)
	}
	for at, end := int64(0), checkedLength(unit); at < end; at += unit {
		if _, err := im.WriteAt(pageAligned(int(min(unit, end-at)), uint64(at)), at); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := im.Finish(); err != nil {
		t.Fatal(err)
	}
	m.Disks = []manifest.Disk{{Target: "vda", Kind: manifest.KindFull, VirtualSize: 8 << 20}}
	if err := p.Seal(m); err != nil {
		t.Fatal(err)
	}
	if err := l.Unlock(); err != nil {
		t.Fatal(err)
	}
	if unit == hashlist.FirstRangeLength {
		asFormat1(t, r, "check1")
	}
	m, err = r.Point("vm1", "check1")
	if err != nil {
		t.Fatal(err)
	}
	return r, m
}

// contentOf is what the image of oneImage holds.
func contentOf(unit int64) (content []byte) {
	for at, end := int64(0), checkedLength(unit); at < end; at += unit {
		content = append(content, pageAligned(int(min(unit, end-at)), uint64(at))...)
	}
	return content
}

// Where the hashes of a list begin, and how long each is (docs/format.md).
const (
	firstHash  = 32
	hashLength = 32
)

// writtenList is the hash list of an image, without the tree of a long one, by
// docs/format.md.
func writtenList(image []byte, unit int) []byte {
	version := uint32(2)
	if unit == 1<<20 {
		version = 1
	}
	list := binary.LittleEndian.AppendUint32([]byte("VBHASHES"), version)
	list = binary.LittleEndian.AppendUint32(list, 1)
	list = binary.LittleEndian.AppendUint64(list, uint64(unit))
	list = binary.LittleEndian.AppendUint64(list, uint64(len(image)))
	for at := 0; at < len(image); at += unit {
		sum := blake3.Sum256(image[at:min(at+unit, len(image))])
		list = append(list, sum[:]...)
	}
	return list
}

// asFormat1 gives the images of a point hash lists as they were first written,
// with a hash for each MiB, and a manifest that goes with them.
func asFormat1(t testing.TB, r *Repository, id string) {
	t.Helper()
	m, err := r.Point("vm1", id)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range m.Disks {
		data, err := os.ReadFile(filepath.Join(r.PointDir("vm1", id), d.Image))
		if err != nil {
			t.Fatal(err)
		}
		list := writtenList(data, 1<<20)
		mustWrite(t, filepath.Join(r.PointDir("vm1", id), d.HashesFile()), string(list))
		m.Disks[i].Hashes, m.Disks[i].HashRange = digest.Of(list), 0
	}
	data, err := manifest.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, filepath.Join(r.PointDir("vm1", id), manifest.FileName), string(data))
}

// checkOf checks the image of oneImage, once as it is and once after somebody has
// read parts of it, which makes no difference.
func checkOf(t *testing.T, r *Repository, m manifest.Manifest, written []byte) []damage.Place {
	t.Helper()
	check := func(p *hashlist.ProvenRanges) []damage.Place {
		found, err := diskimage.Check(context.Background(), r.Link(m, m.Disks[0]), hashlist.CheckOptions{Proven: p,
			Misread: func(place string) { t.Errorf("damage is told as misread: %s", place) }})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	alone, after := check(nil), check(provenOf(t, r, m, written))
	if a, b := describe(alone), describe(after); a != b {
		t.Errorf("read by the check alone: %s\npartly proven before: %s", a, b)
	}
	return alone
}

// provenOf reads parts of the image, of whole ranges and fewer bytes. What it gets
// is what was written, or damage.
func provenOf(t *testing.T, r *Repository, m manifest.Manifest, content []byte) *hashlist.ProvenRanges {
	t.Helper()
	unit := m.Disks[0].HashRange
	if unit == 0 {
		unit = hashlist.FirstRangeLength
	}
	link := diskimage.Link{Point: m, Disk: m.Disks[0], Path: filepath.Join(r.PointDir(m.Domain, m.ID), m.Disks[0].Image)}
	reader, closeReader := diskimage.OpenImage(context.Background(), link, hashlist.ReadOptions{})
	defer closeReader()
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 20 {
		length := []int64{512, unit / 4, unit, 3 * unit}[rnd.IntN(4)]
		at := rnd.Int64N(int64(len(content))/512+3) * 512
		if rnd.IntN(2) == 0 {
			at &^= unit - 1
		}
		p := directio.Buffer(int(3 * unit))[:length]
		n, err := reader.ReadAt(p, at)
		want := content[min(at, int64(len(content))):min(at+length, int64(len(content)))]
		var damaged *damage.Error
		if !bytes.Equal(p[:n], want[:n]) || (n < len(p)) != (err != nil) || err != nil && err != io.EOF && !errors.As(err, &damaged) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, localfile.ErrNotRegular) {
			t.Errorf("seed %d: %d bytes at %d: got %d, %v", seed, length, at, n, err)
		}
	}
	return reader.Proven()
}

func describe(found []damage.Place) string {
	var lines []string
	for _, d := range found {
		s := d.String()
		if d.Harmless {
			s += " [harmless]"
		}
		lines = append(lines, s)
	}
	return strings.Join(lines, "\n")
}

func flip(t testing.TB, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// Every kind of damage is found with its place; damage of the list alone is told
// from damage of the image.
func TestCheckImage(t *testing.T) {
	t.Run("format 1", func(t *testing.T) { testCheckImage(t, hashlist.FirstRangeLength) })
	t.Run("now", func(t *testing.T) { testCheckImage(t, hashlist.RangeLength) })
}

// The numbers in what is wanted are those of ranges of 1 MiB.
func testCheckImage(t *testing.T, unit int64) {
	const list = firstHash + 4*hashLength
	length := checkedLength(unit)
	var pairs []string
	for at1, at := range map[int64]int64{1 << 20: unit, 2 << 20: 2 * unit, 3 << 20: 3 * unit, 3211264: length, 65536: unit / 16,
		2162688: length - unit, 1048585: unit + 9, 1114112: length - 2*unit} {
		pairs = append(pairs, strconv.FormatInt(at1, 10), strconv.FormatInt(at, 10))
	}
	written := contentOf(unit)
	numbers := strings.NewReplacer(pairs...)
	tests := map[string]struct {
		spoil func(t *testing.T, image, hashes string) error
		want  []string // one for each damage
	}{
		"nothing": {func(t *testing.T, image, hashes string) error { return nil }, nil},
		"one byte": {func(t *testing.T, image, hashes string) error { flip(t, image, unit+5); return nil },
			[]string{"vda.qcow2: 1048576 bytes at offset 1048576: differs from what was written"}},
		"neighbours are one place": {func(t *testing.T, image, hashes string) error {
			for _, at := range []int64{0, unit, 3 * unit, length - 1} {
				flip(t, image, at)
			}
			return nil
		}, []string{"vda.qcow2: 2097152 bytes at offset 0: differs", "vda.qcow2: 65536 bytes at offset 3145728: differs"}},
		"truncated within a range": {func(t *testing.T, image, hashes string) error { return os.Truncate(image, unit+9) },
			[]string{"vda.qcow2: 2162688 bytes at offset 1048576: missing: the file ends at byte 1048585 of 3211264"}},
		"empty": {func(t *testing.T, image, hashes string) error { return os.Truncate(image, 0) },
			[]string{"vda.qcow2: 3211264 bytes at offset 0: missing: the file ends at byte 0"}},
		"flipped and truncated": {func(t *testing.T, image, hashes string) error {
			flip(t, image, 0)
			return os.Truncate(image, 2*unit)
		},
			[]string{"1048576 bytes at offset 0: differs", "1114112 bytes at offset 2097152: missing"}},
		"missing": {func(t *testing.T, image, hashes string) error { return os.Remove(image) },
			[]string{"vda.qcow2: 3211264 bytes at offset 0: missing"}},
		"appended": {func(t *testing.T, image, hashes string) error { return os.Truncate(image, length+100) },
			[]string{"vda.qcow2: 100 bytes at offset 3211264: was appended later; nothing reads it [harmless]"}},
		"a link": {func(t *testing.T, image, hashes string) error {
			return errors.Join(os.Rename(image, image+".x"), os.Symlink(image+".x", image))
		}, []string{"is not a regular file: a symbolic link"}},
		"a directory": {func(t *testing.T, image, hashes string) error {
			return errors.Join(os.Remove(image), os.Mkdir(image, 0o700))
		},
			[]string{"is not a regular file"}},
		"a pipe": {func(t *testing.T, image, hashes string) error {
			return errors.Join(os.Remove(image), unix.Mkfifo(image, 0o600))
		},
			[]string{"is not a regular file"}},
		"a hash": {func(t *testing.T, image, hashes string) error {
			flip(t, hashes, firstHash+2*hashLength)
			return nil
		},
			[]string{"vda.hashes: 32 bytes at offset 96: differs from what was written; the image it belongs to is sound by the manifest [harmless]"}},
		"the list's header": {func(t *testing.T, image, hashes string) error { flip(t, hashes, 24); return nil },
			[]string{"vda.hashes: 32 bytes at offset 0: the header differs from what was written; the image it belongs to is sound by the manifest [harmless]"}},
		"the list missing": {func(t *testing.T, image, hashes string) error { return os.Remove(hashes) },
			[]string{"vda.hashes: missing; the image it belongs to is sound by the manifest [harmless]"}},
		"the list truncated": {func(t *testing.T, image, hashes string) error { return os.Truncate(hashes, 70) },
			[]string{"vda.hashes: 90 bytes at offset 70: missing: the file ends here; the image it belongs to is sound by the manifest [harmless]"}},
		"the list appended": {func(t *testing.T, image, hashes string) error { return os.Truncate(hashes, list+32) },
			[]string{"vda.hashes: 32 bytes at offset 160: was appended later; the image it belongs to is sound by the manifest [harmless]"}},
		"image and a hash": {func(t *testing.T, image, hashes string) error {
			flip(t, image, 0)
			flip(t, hashes, firstHash+hashLength)
			return nil
		}, []string{"vda.hashes: 160 bytes at offset 0: does not match the manifest [harmless]",
			"vda.qcow2: 2097152 bytes at offset 0: differs from what was written, or its hash list does, which is damaged too"}},
		"image, and no list": {func(t *testing.T, image, hashes string) error { flip(t, image, 0); return os.Remove(hashes) },
			[]string{"vda.hashes: missing [harmless]", "vda.qcow2: 3211264 bytes at offset 0: differs from what was written; where, its hash list would tell, which is gone"}},
		"both of another point": {func(t *testing.T, image, hashes string) error {
			data := pageAligned(int(length), 77)
			sums := writtenList(data, int(unit))
			return errors.Join(os.WriteFile(image, data, 0o600), os.WriteFile(hashes, sums, 0o600))
		}, []string{"vda.hashes: 160 bytes at offset 0: does not match the manifest [harmless]", "vda.qcow2: 3211264 bytes at offset 0: is not the image that was written"}},
	}
	whole, m := oneImage(t, unit)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := copyOf(t, whole)
			dir := r.PointDir("vm1", "check1")
			if err := tt.spoil(t, filepath.Join(dir, "vda.qcow2"), filepath.Join(dir, "vda.hashes")); err != nil {
				t.Fatal(err)
			}
			got := checkOf(t, r, m, written)
			if len(got) != len(tt.want) {
				t.Fatalf("got\n%s\nwant %d", describe(got), len(tt.want))
			}
			for i, want := range tt.want {
				want = numbers.Replace(want)
				if !strings.Contains(describe(got[i:i+1]), want) {
					t.Errorf("got\n%s\nwant %s", describe(got[i:i+1]), want)
				}
				if _, broken := got[i].Image(); broken == got[i].Harmless || broken != got[i].WholeDisk {
					t.Errorf("%+v: the image is no qcow2, so the whole disk is affected or nothing", got[i])
				}
			}
		})
	}
}

// Every byte of a list of hashes and of a small file counts.
func TestEveryByteOfSmallFiles(t *testing.T) {
	r, m := oneImage(t, hashlist.RangeLength)
	dir := r.PointDir("vm1", "check1")
	for at := range int64(firstHash + 4*hashLength) {
		flip(t, filepath.Join(dir, "vda.hashes"), at)
		if got := checkOf(t, r, m, contentOf(hashlist.RangeLength)); len(got) != 1 || !got[0].Harmless || at < got[0].Offset || at >= got[0].Offset+got[0].Length {
			t.Fatalf("byte %d of the list: %s", at, describe(got))
		}
		flip(t, filepath.Join(dir, "vda.hashes"), at)
	}
	for at := range int64(len("<domain/>")) {
		flip(t, filepath.Join(dir, manifest.DomainXML), at)
		if got, err := pointfile.Check(t.Context(), r.PointDir("vm1", m.ID), m, manifest.DomainXML, nil); err != nil || len(got) != 1 || got[0].Harmless {
			t.Fatalf("byte %d of %s: %s, %v", at, manifest.DomainXML, describe(got), err)
		}
		var damaged *damage.Error
		if _, err := r.ReadFile(m, manifest.DomainXML); !errors.As(err, &damaged) {
			t.Fatalf("byte %d of %s: read with %v", at, manifest.DomainXML, err)
		}
		flip(t, filepath.Join(dir, manifest.DomainXML), at)
	}
	if data, err := r.ReadFile(m, manifest.DomainXML); err != nil || string(data) != "<domain/>" {
		t.Errorf("read %q, %v", data, err)
	}
	if got := checkOf(t, r, m, contentOf(hashlist.RangeLength)); len(got) != 0 {
		t.Errorf("nothing is damaged any more: %s", describe(got))
	}
}

func TestCheckImageEndsWithItsContext(t *testing.T) {
	r, m := oneImage(t, hashlist.RangeLength)
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(why)
	if _, err := diskimage.Check(ctx, r.Link(m, m.Disks[0]), hashlist.CheckOptions{}); !errors.Is(err, why) {
		t.Errorf("got %v, want the cause", err)
	}
}

func TestErrorOf(t *testing.T) {
	if err := damage.ErrorOf([]damage.Place{{File: "vm1/check1/vda.hashes", Harmless: true}}); err != nil {
		t.Errorf("harmless: %v", err)
	}
	r := chainOfThree(t)
	err := damage.ErrorOf([]damage.Place{
		{Domain: "vm1", Point: "check2", File: "vm1/check2/vda.qcow2", Disk: "vda", Offset: 5, Length: 7, What: "differs", WholeDisk: true},
		{Domain: "vm1", Point: "check2", File: "vm1/check2/vda.qcow2", Disk: "vda", Offset: 50, Length: 7, What: "differs"},
	})
	var damaged *damage.Error
	if !errors.As(err, &damaged) || len(damaged.Points) != 1 {
		t.Fatalf("got %v", err)
	}
	r.Explain(damaged)
	if !slices.Equal(damaged.Lost, []string{"check2", "diff3"}) || !slices.Equal(damaged.Left, []string{"check1", "copy10"}) {
		t.Errorf("lost %q, left %q", damaged.Lost, damaged.Left)
	}
	for _, want := range []string{"vda.qcow2: 7 bytes at offset 5", "at offset 50", "lost with it: check2 diff3", "not touched by it: check1 copy10"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
	if want := "virtbackup restore vm1 --at copy10"; !strings.Contains(damaged.Hint(), want) {
		t.Errorf("hint %q, want %q", damaged.Hint(), want)
	}
}
