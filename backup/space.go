package backup

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/xml"
)

// size is that of all disks that are copied, in bytes.
func (p *Plan) size() (n int64) {
	for _, d := range p.Disks {
		n += d.Size
	}
	return n
}

// need is how many bytes the point will take in the repository, as far as that
// is known beforehand. data says how many bytes of a disk will be copied, or a
// negative number if nobody knows.
func (p *Plan) need(data func(DiskPlan) int64) (n int64) {
	for _, d := range p.Disks {
		if bytes := data(d); bytes >= 0 {
			n += bytes + metadata(bytes, d.Size)
		}
	}
	return n
}

// expected is what libvirt says of a disk. How much of one differs from its
// parent nobody knows before it is compared.
func (d DiskPlan) expected() int64 {
	if d.Rescan {
		return -1
	}
	return d.Expected
}

// metadata is how many bytes an image of 64 KiB clusters and its hash list take
// besides the data: L2 tables as far as they are touched (one for 512 MiB), 2
// bytes of refcount for each cluster, 32 bytes of hash for each MiB, and four
// clusters for the rest.
func metadata(data, size int64) int64 {
	const cluster, covered = 64 << 10, 512 << 20
	clusters := (data + cluster - 1) / cluster
	tables := min(clusters, (size+covered-1)/covered)
	return (4+tables)*cluster + 2*clusters + 32*(data>>20)
}

// checkSpace refuses, before a job begins, what will not fit: the guest should
// not pay for a backup that fails in the end.
func (r *run) checkSpace(context.Context) error {
	if err := r.checkScratch(); err != nil {
		return err
	}
	r.need = r.plan.need(DiskPlan.expected)
	free, size, err := freeSpace(r.dir, os.Geteuid() == 0)
	if err != nil || size == 0 || r.need <= free {
		return err // some file systems do not say what they have
	}
	// The allocation of an image counts what is reserved for it, too.
	if r.need = r.plan.need(written); r.need <= free {
		return nil
	}
	short := fmt.Sprintf("the repository at %s has too little space for %s of domain %s: it needs about %s and has %s",
		r.dir, r.plan.ID, r.Domain, sizeText(r.need), sizeText(free))
	if r.Zstd != 0 {
		r.warn("%s; compression may make it fit", short)
		return nil
	}
	return withHint(fmt.Errorf("%s (%s are missing)", short, sizeText(r.need-free)),
		"free space there, use another repository (--repo), or try --compress zstd")
}

// checkScratch refuses a job that would have to end at once.
func (r *run) checkScratch() error {
	free, size, err := freeSpace(runDir(r.ScratchDir), false)
	if err != nil || size == 0 {
		return nil // prepareRunDirs makes it, or says what is wrong
	}
	w := scratchWatch{most: r.plan.size()}
	w.note(scratchSample{free: free, size: size})
	if free >= w.reserve() {
		return nil
	}
	return withHint(fmt.Errorf("%s has too little space for scratch files: %s are free, and without at least %s the guest's writes could fail",
		runDir(r.ScratchDir), sizeText(free), sizeText(w.reserve())), "free space there, or name another directory with --scratch-dir")
}

// explainFull adds to an error of a full file system how much is missing.
func (r *run) explainFull(err error) error {
	_, copied := r.meter.read()
	missing := "how much is missing nobody knows"
	switch left := r.need - copied; {
	case left > 0 && r.Zstd != 0:
		missing = fmt.Sprintf("at most about %s are missing", sizeText(left))
	case left > 0:
		missing = fmt.Sprintf("about %s are missing", sizeText(left))
	}
	return withHint(fmt.Errorf("the repository at %s is full after %s of about %s, %s: %w", r.dir, sizeText(copied), sizeText(r.need), missing, err),
		"free space there, or use another repository (--repo); what this run had written is removed")
}

// freeSpace is what the file system of a directory has, in bytes. all counts
// the blocks that are kept for root, too.
func freeSpace(dir string, all bool) (free, size int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	block := s.Frsize
	if block == 0 {
		block = s.Bsize
	}
	blocks := s.Bavail
	if all {
		blocks = s.Bfree
	}
	return int64(blocks) * block, int64(s.Blocks) * block, nil
}

// written is expected, but for an image on this host that is copied in full what
// has been written to it: space that is only reserved (preallocation=falloc,
// fallocate(2)) reads as zeros and is not copied.
func written(d DiskPlan) int64 {
	if d.Incremental || d.Rescan || d.SourceType != "file" {
		return d.expected()
	}
	n, err := dataBytes(d.Disk)
	if err != nil {
		return d.Expected
	}
	return min(d.Expected, n)
}

// dataBytes counts the bytes of an image file that are not holes; unwritten
// space counts as a hole (lseek(2), SEEK_DATA).
func dataBytes(d xml.Disk) (n int64, err error) {
	f, err := os.Open(d.Source)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	for end := int64(0); ; {
		start, err := unix.Seek(int(f.Fd()), end, unix.SEEK_DATA)
		if err == unix.ENXIO { //nolint:errorlint // a bare errno: no more data
			return n, nil
		}
		if err != nil {
			return 0, err
		}
		if end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE); err != nil {
			return 0, err
		}
		n += end - start
	}
}
