package flatten

import (
	"context"
	"errors"
	"testing"
)

// fakeDisk is a disk as diskOf makes it; x in dirty marks what its bitmap has.
type fakeDisk struct {
	bytes []byte
	dirty string
	fail  error
}

func (d *fakeDisk) Size() int64 { return int64(len(d.bytes)) }

func (d *fakeDisk) CleanClusters(_ context.Context, start, end, cluster int64) ([]bool, error) {
	var clean []bool
	for off := start; off < end; off += cluster {
		clean = append(clean, d.dirty[off/cluster] != 'x')
	}
	return clean, nil
}

func (d *fakeDisk) ReadAt(_ context.Context, p []byte, offset int64) error {
	copy(p, d.bytes[offset:])
	return d.fail
}

func TestTailChanged(t *testing.T) {
	for _, tt := range []struct {
		name, old, dirty, now string
		offset                int64
		changed               bool
	}{
		{"nothing changed", "ab.c", "....", "ab.c", 3, false},
		{"the end is lost", "ab.c", "....", "a...", 3, true},
		{"lost, and written since", "abcd", "...x", "a..e", 2, true},
		{"written since", "abcd", "..xx", "abxy", 1, false},
		{"all written since", "ab..", "xx..", "xy..", 0, false},
		{"nothing there", "....", "....", "....", 0, false},
		{"shrunk", "abcd", "..", "ab", 1, false},
		{"shrunk, and changed", "abcd", "..", "a.", 1, true},
		{"grown", "ab", "..xx", "abcd", 1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			old := open(t, baseOf(t, diskOf(tt.old, len(tt.old)*unit)).Name())
			disk := &fakeDisk{bytes: diskOf(tt.now, len(tt.now)*unit), dirty: tt.dirty}
			offset, changed, err := TailChanged(context.Background(), old, disk)
			if err != nil || offset != tt.offset*unit || changed != tt.changed {
				t.Errorf("cluster %d, %v, %v, want %d, %v", offset/unit, changed, err, tt.offset, tt.changed)
			}
		})
	}
	boom := errors.New("boom")
	disk := &fakeDisk{bytes: diskOf("a", unit), dirty: ".", fail: boom}
	if _, _, err := TailChanged(context.Background(), open(t, baseOf(t, diskOf("a", unit)).Name()), disk); !errors.Is(err, boom) {
		t.Errorf("a disk that cannot be read: %v", err)
	}
}
