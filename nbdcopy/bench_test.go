//go:build cgo

package nbdcopy

import (
	"context"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nowhere is a sink that does nothing.
type nowhere struct{}

func (nowhere) ClusterSize() int            { return 64 * kib }
func (nowhere) Write([]int64, []byte) error { return nil }
func (nowhere) Zero(int64, int64) error     { return nil }

// randomFile is a raw file of random bytes in memory.
func randomFile(b *testing.B, size int64) string {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "nbdcopy-*")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	f, err := os.Create(filepath.Join(dir, "disk"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{}), size); err != nil {
		b.Fatal(err)
	}
	return f.Name()
}

// BenchmarkRead reads a disk to nowhere, in turns with nbdcopy, and reports the
// ratio of the medians. The budget is 1.05 (docs/performance.md).
//
//	go test -run '^$' -bench Read -benchtime 5x ./nbdcopy
func BenchmarkRead(b *testing.B) {
	const size = 2 << 30
	s := qemuNBD(b, "raw", randomFile(b, size))
	var ours, theirs []time.Duration
	b.SetBytes(size)
	for b.Loop() {
		start := time.Now()
		readNowhere(b, s, size)
		ours = append(ours, time.Since(start))
		b.StopTimer()
		cmd := exec.Command("nbdcopy", "--", "nbd+unix:///vda?socket="+s.socket, "null:")
		start = time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%s: %v\n%s", cmd, err, out)
		}
		theirs = append(theirs, time.Since(start))
		b.StartTimer()
	}
	b.ReportMetric(median(ours)/median(theirs), "of-nbdcopy")
}

func median(list []time.Duration) float64 {
	slices.Sort(list)
	return list[len(list)/2].Seconds()
}

func readNowhere(b *testing.B, s *server, size int64) {
	e, err := Open(context.Background(), Source{Socket: s.socket, Export: "vda"})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	stats, err := e.Copy(context.Background(), nowhere{}, Options{})
	if err != nil || stats.Data != size {
		b.Fatalf("%+v, %v", stats, err)
	}
}

// BenchmarkReadScattered reads a disk of which every other cluster is a hole.
func BenchmarkReadScattered(b *testing.B) {
	const size = 2 << 30
	path := randomFile(b, size)
	for off := int64(0); off < size; off += 128 * kib {
		punchHole(b, path, off, 64*kib)
	}
	s := qemuNBD(b, "raw", path)
	var ours, theirs []time.Duration
	b.SetBytes(size / 2)
	for b.Loop() {
		start := time.Now()
		readNowhere(b, s, size/2)
		ours = append(ours, time.Since(start))
		b.StopTimer()
		cmd := exec.Command("nbdcopy", "--", "nbd+unix:///vda?socket="+s.socket, "null:")
		start = time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%s: %v\n%s", cmd, err, out)
		}
		theirs = append(theirs, time.Since(start))
		b.StartTimer()
	}
	b.ReportMetric(median(ours)/median(theirs), "of-nbdcopy")
}

func punchHole(b *testing.B, path string, offset, length int64) {
	b.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, length); err != nil {
		b.Fatal(err)
	}
}
