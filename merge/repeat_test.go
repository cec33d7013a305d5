package merge

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/diskimage"
)

// Merging an image again and again takes nothing along: frames are cut to their length.
// What was merged away leaves no bytes.
func TestRepeatedMergesDoNotGrow(t *testing.T) {
	w := newWorld(t, 1, 65536)
	w.add(16<<20, true, func(p *painter) { p.data(0, 256, false) })
	link, first := w.links[0], w.links[0].Disk.ImageBytes
	for i := range 20 {
		// The upper image has four clusters of the same kind as those that it hides.
		w.links, w.shown = append(w.links[:0:0], link), append(w.shown[:0:0], w.shown[len(w.shown)-1])
		w.links[0].Point.ID = fmt.Sprintf("check%d", 100+i)
		move(t, &w.links[0], filepath.Join(w.dir, w.links[0].Point.ID))
		w.add(16<<20, true, func(p *painter) { p.data(p.rnd.IntN(252), 4, false) })
		run := w.run(0, 1)
		must(t, os.RemoveAll(filepath.Join(w.dir, "merged")))
		stats, err := Rewrite(context.Background(), run, w.create("merged"), Options{})
		must(t, err)
		link = w.merged(run, "merged", stats)
		must(t, os.RemoveAll(filepath.Join(w.dir, "check2")))
	}
	w.judge(link)
	w.shows(link.Path, w.shown[1])
	if grown := link.Disk.ImageBytes - first; grown > 128<<10 || grown < -128<<10 {
		t.Errorf("an image of %d bytes has grown by %d", first, grown)
	}
}

func move(t *testing.T, l *diskimage.Link, dir string) {
	t.Helper()
	must(t, os.Rename(filepath.Dir(l.Path), dir))
	l.Path = filepath.Join(dir, filepath.Base(l.Path))
}
