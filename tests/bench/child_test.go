package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/nbdcopy"
)

// childRole names, in the environment, what this binary does instead of running tests: two
// contestants are not programs, but their memory and processor time must be measured as
// those of the others are.
const childRole = "VIRTBACKUP_BENCH_CHILD"

func child(role string, args []string) int {
	var err error
	switch role {
	case "read":
		err = readNowhere(args[0])
	case "write":
		err = writeDirect(args[0], args[1])
	default:
		err = fmt.Errorf("no such role")
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
		return 1
	}
	return 0
}

// nowhere is a sink that discards everything.
type nowhere struct{}

func (nowhere) ClusterSize() int            { return 64 << 10 }
func (nowhere) Write([]int64, []byte) error { return nil }
func (nowhere) Zero(int64, int64) error     { return nil }

// readNowhere reads the disk vda with virtbackup's engine and discards the data.
func readNowhere(socket string) error {
	e, err := nbdcopy.Open(context.Background(), nbdcopy.Source{Socket: socket, Export: "vda"})
	if err != nil {
		return err
	}
	defer e.Close()
	_, err = e.Copy(context.Background(), nowhere{}, nbdcopy.Options{})
	return err
}

const (
	writers   = 4       // as many as virtbackup has for a disk; more are no faster here
	writeSize = 1 << 20 // bytes, as virtbackup writes
)

// writeDirect writes a new file of that many bytes, a multiple of writeSize, as fast as its
// file system can: an upper limit for every contestant.
func writeDirect(path, bytes string) error {
	size, err := strconv.ParseInt(bytes, 10, 64)
	if err != nil {
		return err
	}
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Fallocate(fd, 0, 0, size); err != nil {
		return fmt.Errorf("fallocate %s: %w", path, err)
	}
	var next atomic.Int64
	var g errgroup.Group
	for range writers {
		g.Go(func() error { return writeShare(fd, &next, size) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return unix.Fdatasync(fd)
}

// writeShare writes what next gives out until all is written.
func writeShare(fd int, next *atomic.Int64, size int64) error {
	// Mapped memory is page-aligned, as O_DIRECT wants it.
	buffer, err := unix.Mmap(-1, 0, writeSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	defer unix.Munmap(buffer)
	_, _ = rand.NewChaCha8([32]byte{}).Read(buffer)
	for {
		at := next.Add(writeSize) - writeSize
		if at >= size {
			return nil
		}
		if n, err := unix.Pwrite(fd, buffer, at); err != nil || n != writeSize {
			return fmt.Errorf("%d bytes at offset %d: %d written: %w", writeSize, at, n, err)
		}
	}
}
