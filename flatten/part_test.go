package flatten

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"

	"github.com/virtbackup/virtbackup/extent/extenttest"
	"github.com/virtbackup/virtbackup/internal/bitset"
)

func TestCopyPart(t *testing.T) {
	const disk, absent, upper = "dddz..d", "zz....d", "..z.d.."
	for set, want := range map[string]string{
		"xxxxxxx": "zzzzdzd", "......x": "......d", "x.x.x.x": "z.z.d.d", ".......": ".......", ".....x.": ".....z.",
	} {
		paths := writeImages(t, imageOf(disk, 512), imageOf(absent, 512), imageOf(upper, 512))
		images := open(t, paths...)
		var part bitset.Set
		for k, r := range set {
			if r == 'x' {
				part.Add(int64(k))
			}
		}
		part.Add(99) // behind the end of the disk
		sink := &extenttest.Recorder{Cluster: unit, Size: images.Size()}
		must(t, CopyPart(context.Background(), images, &part, sink, func(int64) {}))
		if got := told(t, sink); got != want {
			t.Errorf("set %s: the sink was told %s, want %s", set, got, want)
		}
	}
}

// What is in the set shows what the chain shows afterwards, and all else is as it was.
func TestCopyPartRandom(t *testing.T) {
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 10))
		paths := writeImages(t, randomImages(rnd)...)
		images := open(t, paths...)
		want := shown(t, paths[len(paths)-1])
		sink := &extenttest.Recorder{Cluster: unit, Size: images.Size(), Bytes: bytes.Repeat([]byte{0xee}, len(want))}
		var set bitset.Set
		for at := int64(0); at < images.Size(); at += unit {
			if rnd.IntN(3) == 0 {
				set.Add(at / unit)
			} else {
				copy(want[at:min(at+unit, images.Size())], bytes.Repeat([]byte{0xee}, unit))
			}
		}
		must(t, CopyPart(context.Background(), images, &set, sink, func(int64) {}))
		sink.Extents(t)
		if !bytes.Equal(sink.Bytes, want) {
			t.Fatalf("seed %d: the sink shows something else", seed)
		}
	}
}
