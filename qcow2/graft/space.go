package graft

import (
	"fmt"

	"github.com/virtbackup/virtbackup/internal/bitset"
)

// stretchClusters follow each other where compressed clusters are begun: of a stretch half a
// frame is lost at its end, 6 % of four clusters with frames of 32 KiB. Shorter stretches
// are left to other clusters.
const stretchClusters = 4

// space hands out the host clusters of an image and takes them back. All are numbers, not
// offsets.
type space struct {
	counts *refcounts
	end    int64 // clusters that the file has
	old    int64 // that it had at first
	next   int64 // clusters below are in use, or in freed
	wide   int64 // no stretch of free clusters begins below

	freed bitset.Set // clusters that were in use, and are not any more
	low   int64      // none of them is below
}

// one allocates a cluster: one that was freed, one that was free before, or one behind the
// end of the file.
func (s *space) one() (int64, error) {
	if c := s.freed.Next(s.low); c >= 0 {
		s.low = c + 1
		return c, s.claim(c)
	}
	c, err := s.counts.nextFree(s.next, s.old)
	if err != nil {
		return 0, err
	}
	if c < 0 {
		s.next = s.old
		return s.grow()
	}
	s.next = c + 1
	return c, s.claim(c)
}

// claim takes a cluster whose refcount is 0.
func (s *space) claim(c int64) error {
	s.freed.Remove(c)
	return s.counts.set(c, 1)
}

// grow allocates a cluster at the end of the file, behind the refcount block that counts it,
// if that is not there yet.
func (s *space) grow() (int64, error) {
	if !s.counts.has(s.end) {
		block := s.end
		if err := s.counts.add(block, block*s.counts.cluster); err != nil {
			return 0, err
		}
		s.end++
		if err := s.counts.set(block, 1); err != nil {
			return 0, err
		}
	}
	s.end++
	return s.end - 1, s.counts.set(s.end-1, 1)
}

// after allocates the cluster with that number if it is free.
func (s *space) after(c int64) (bool, error) {
	if c == s.end && s.counts.has(c) {
		_, err := s.grow()
		return true, err
	}
	if c >= s.end {
		return false, nil
	}
	count, err := s.counts.get(c)
	if err != nil || count != 0 || !s.counts.has(c) {
		return false, err
	}
	return true, s.claim(c)
}

// stretch allocates a cluster that others which are free follow.
func (s *space) stretch() (int64, error) {
	for {
		c, err := s.counts.nextFree(s.wide, s.old)
		if err != nil {
			return 0, err
		}
		if c < 0 {
			s.wide = s.old
			return s.grow()
		}
		n := int64(1)
		for ; n < stretchClusters; n++ {
			next, err := s.counts.nextFree(c+n, min(c+n+1, s.old))
			if err != nil {
				return 0, err
			}
			if next < 0 {
				break
			}
		}
		s.wide = c + n
		if n == stretchClusters {
			return c, s.claim(c)
		}
	}
}

// run allocates n clusters that follow each other at the end of the file.
func (s *space) run(n int64) (int64, error) {
	for {
		first, err := s.grow()
		if err != nil {
			return 0, err
		}
		got := int64(1)
		for ; got < n && s.counts.has(s.end); got++ {
			if _, err := s.grow(); err != nil {
				return 0, err
			}
		}
		if got == n {
			return first, nil
		}
		for c := first; c < first+got; c++ { // a refcount block comes in between
			if err := s.release(c); err != nil {
				return 0, err
			}
		}
	}
}

// share counts one more user of a cluster.
func (s *space) share(c int64) error {
	count, err := s.counts.get(c)
	if err != nil {
		return err
	}
	return s.counts.set(c, count+1)
}

// release counts one user less, and frees the cluster with the last of them.
func (s *space) release(c int64) error {
	count, err := s.counts.get(c)
	if err != nil {
		return err
	}
	if count == 0 || c >= s.end {
		return fmt.Errorf("the cluster at offset %d is in use, and has no refcount", c*s.counts.cluster)
	}
	if count == 1 {
		s.freed.Add(c)
		s.low = min(s.low, c)
	}
	return s.counts.set(c, count-1)
}

// trim makes the file end with the last cluster that is in use. A refcount block is, even if
// it counts nothing but itself.
func (s *space) trim() error {
	for s.end > 1 {
		count, err := s.counts.get(s.end - 1)
		if err != nil || count > 0 {
			return err
		}
		s.end--
		s.freed.Remove(s.end)
	}
	return nil
}
