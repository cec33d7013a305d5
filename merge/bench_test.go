package merge

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// benchWorld is a full of 1 GiB, text and noise, and three increments of an eighth.
func benchWorld(b *testing.B, compressed bool) *world {
	w := newWorld(b, 1, 65536)
	for i := range 4 {
		w.add(1<<30, compressed, func(p *painter) {
			for at := 0; at < 1<<14; at += 64 {
				if i == 0 || p.rnd.IntN(8) == 0 {
					p.data(at, 64, at%128 == 0)
				}
			}
		})
	}
	w.shown = nil
	return w
}

// A merge beside qemu-img convert -W of the same images, which verifies and hashes nothing.
func BenchmarkRewrite(b *testing.B) {
	for name, compressed := range map[string]bool{"raw": false, "zstd": true} {
		w := benchWorld(b, compressed)
		run := w.run(0, 3)
		b.Run(name+"/merge", func(b *testing.B) {
			b.SetBytes(1 << 30)
			for b.Loop() {
				im := w.create("merged")
				_, err := Rewrite(context.Background(), run, im, Options{})
				must(b, err)
				must(b, os.RemoveAll(filepath.Join(w.dir, "merged")))
			}
		})
		b.Run(name+"/survey", func(b *testing.B) {
			for b.Loop() {
				_, err := Survey(context.Background(), run, Options{})
				must(b, err)
			}
		})
		b.Run(name+"/qemu-img", func(b *testing.B) {
			b.SetBytes(1 << 30)
			for b.Loop() {
				out := filepath.Join(w.dir, "converted.qcow2")
				args := []string{"convert", "-W", "-t", "none", "-T", "none", "-f", "qcow2", "-O", "qcow2"}
				if compressed {
					args = append(args, "-c", "-o", "compression_type=zstd")
				}
				qemuImg(b, append(args, run.target().Path, out)...)
				must(b, os.Remove(out))
			}
		})
	}
}
