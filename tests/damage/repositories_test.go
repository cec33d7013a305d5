package damage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
	"github.com/virtbackup/virtbackup/verify"
)

// spoiling is one way to damage a repository, and what must be lost by it.
type spoiling struct {
	name  string
	spoil func(b *bed) error
	lost  []string // the points that do not restore any more, oldest first
	// atLeast says that lost is a lower bound: it depends on what the byte was.
	atLeast bool
}

// bed is a copy of the repository that one worker damages repeatedly.
type bed struct {
	*testsite.Site
	whole   string                 // the undamaged repository
	outside string                 // a directory that nothing may read
	put     map[string]fs.FileInfo // what reset has put there
}

func (b *bed) path(parts ...string) string {
	return filepath.Join(append([]string{b.Repo, b.Name}, parts...)...)
}

// reset repairs the repository: every file that is not the one that an earlier reset has put
// there is copied again.
func (b *bed) reset() error {
	keep := map[string]bool{}
	err := filepath.WalkDir(b.whole, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := b.Repo + strings.TrimPrefix(path, b.whole)
		keep[to] = true
		want, err := e.Info()
		if err != nil {
			return err
		}
		got, err := os.Lstat(to)
		if e.IsDir() {
			if err == nil && got.IsDir() {
				return nil
			}
			return errors.Join(os.RemoveAll(to), os.Mkdir(to, want.Mode().Perm()))
		}
		if put := b.put[to]; err == nil && put != nil && os.SameFile(got, put) && got.Size() == put.Size() && got.ModTime().Equal(put.ModTime()) {
			return nil
		}
		data, err := os.ReadFile(path)
		// An hour ago, so that whatever is written later has another time.
		err = errors.Join(err, os.RemoveAll(to), os.WriteFile(to, data, want.Mode().Perm()), os.Chtimes(to, time.Time{}, time.Now().Add(-time.Hour)))
		if err == nil {
			b.put[to], err = os.Lstat(to)
		}
		return err
	})
	if err != nil {
		return err
	}
	return filepath.WalkDir(b.Repo, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil || keep[path]:
			return err
		case !e.IsDir():
			return os.Remove(path)
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		return fs.SkipDir
	})
}

// counts are totals over all cases.
type counts struct{ cases, flips, verified, refused, restored, wrong atomic.Int64 }

// below lists the points that are lost with a disk's image of a point, for the chain of
// smallChain.
var below = map[string][]string{
	"check1": {"check1", "check2", "check3", "diff4"},
	"check2": {"check2", "check3", "diff4"},
	"check3": {"check3"},
	"diff4":  {"diff4"},
}

var allPoints = below["check1"]

// Whatever is wrong with a repository, verify names it and every point that is lost; those
// points do not restore; the others do, and equal the truth; and nothing outside is touched.
func TestDamagedRepositories(t *testing.T) {
	s := smallChain(t)
	var n counts
	t.Run("names", func(t *testing.T) { try(t, s, &n, forged, renamed, replaced, links) })
	t.Run("content", func(t *testing.T) {
		// Without qemu-img, which verify then misses and does not need: it would
		// take more time than all the rest.
		tools := testdomain.TempDir(t)
		nbd, err := exec.LookPath("qemu-nbd")
		if err := errors.Join(err, os.Symlink(nbd, filepath.Join(tools, "qemu-nbd"))); err != nil {
			t.Fatal(err)
		}
		beds := []*bed{newBed(t, s), newBed(t, s)}
		t.Setenv("PATH", tools)
		tryOn(beds, &n, flippedImages, flippedFiles, truncated, removed, swapped)
	})
	t.Run("every byte", func(t *testing.T) { everyByte(t, s, &n) })
	t.Logf("%d damaged repositories, %d single bytes besides: %d verifications, %d restores refused, %d restores equal to the truth, %d wrong",
		n.cases.Load(), n.flips.Load(), n.verified.Load(), n.refused.Load(), n.restored.Load(), n.wrong.Load())
}

func try(t *testing.T, s *testsite.Site, n *counts, kinds ...func(*testsite.Site) []spoiling) {
	t.Helper()
	tryOn([]*bed{newBed(t, s), newBed(t, s)}, n, kinds...)
}

// tryOn tries all cases, one on each bed at a time.
func tryOn(beds []*bed, n *counts, kinds ...func(*testsite.Site) []spoiling) {
	var cases []spoiling
	for _, add := range kinds {
		whole := *beds[0].Site
		whole.Repo = beds[0].whole
		cases = append(cases, add(&whole)...)
	}
	cases = shorterCut(beds[0].T, cases)
	queue := make(chan int, len(cases)) // a bed whose case ends with Fatal takes no more
	for i := range cases {
		queue <- i
	}
	close(queue)
	var workers sync.WaitGroup
	for _, b := range beds {
		workers.Go(func() {
			for i := range queue {
				b.try(cases[i], i, n)
			}
		})
	}
	workers.Wait()
}

// shorterCut is a third of the cases, a different one each time, unless all faults are asked
// for.
func shorterCut(t *testing.T, cases []spoiling) []spoiling {
	t.Helper()
	if testsite.AllFaults() {
		return cases
	}
	random := rand.New(rand.NewPCG(testsite.NewSeed(t), 0))
	random.Shuffle(len(cases), func(i, j int) { cases[i], cases[j] = cases[j], cases[i] })
	return cases[:(len(cases)+2)/3]
}

func newBed(t *testing.T, s *testsite.Site) *bed {
	t.Helper()
	c := spoilt(s, t)
	outside := filepath.Join(filepath.Dir(c.Repo), "outside")
	if err := os.Mkdir(outside, 0o700); err != nil {
		t.Fatal(err)
	}
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", filepath.Join(outside, "canary"), "12M")
	listen(t, filepath.Join(outside, "nbd.sock"))
	return &bed{Site: c, whole: s.Repo, outside: outside, put: map[string]fs.FileInfo{}}
}

// try damages the repository, verifies it, and restores.
func (b *bed) try(c spoiling, turn int, n *counts) {
	n.cases.Add(1)
	fail := func(format string, args ...any) { b.T.Errorf("%s: %s", c.name, fmt.Sprintf(format, args...)) }
	if err := errors.Join(b.reset(), c.spoil(b)); err != nil {
		fail("%v", err)
		return
	}
	touched, err := watch(b.outside)
	if err != nil {
		fail("%v", err)
		return
	}
	defer func() {
		if names := touched(); len(names) > 0 {
			fail("something outside of the repository was looked into: %v", names)
		}
	}()
	repo, err := repository.Open(b.Repo)
	if err != nil {
		fail("%v", err)
		return
	}
	n.verified.Add(1)
	report, err := verify.Run(context.Background(), repo, verify.Request{Domain: b.Name})
	if damaged := (&damage.Error{}); errors.As(err, &damaged) && c.name == "the domain is a link" {
		report = verify.Report{Domains: []verify.DomainReport{{Lost: c.lost}}, Damage: make([]damage.Place, 1)}
	} else if err != nil {
		fail("verify: %v", err)
		return
	}
	d := report.Domains[0]
	if len(report.Damage) == 0 {
		fail("verify found nothing")
	}
	for _, id := range allPoints {
		lost := slices.Contains(d.Lost, id)
		if want := slices.Contains(c.lost, id); want && !lost || !want && lost && !c.atLeast || lost == slices.Contains(d.Restores, id) {
			fail("lost are %v, left %v, want lost %v\n%v", d.Lost, d.Restores, c.lost, report.Damage)
			break
		}
	}
	for i, p := range b.Points {
		// Each point in turn, and in each case the newest.
		if i == len(b.Points)-1 || (turn+i)%3 == 0 {
			b.tryRestore(repo, p, slices.Contains(d.Lost, p.ID), n, fail)
		}
	}
}

// saysWhat tells whether a restore was refused for damage, or for what is not there.
func saysWhat(err error) bool { return fail.Is(err, fail.Damaged) || fail.Is(err, fail.NotFound) }

// tryRestore restores a point, which must fail if it is lost.
func (b *bed) tryRestore(repo *repository.Repository, p testsite.Point, lost bool, n *counts, fail func(string, ...any)) {
	dir := filepath.Join(filepath.Dir(b.Repo), "restored")
	defer os.RemoveAll(dir)
	_, err := restore.Run(context.Background(), repo, restore.Request{Domain: b.Name, At: p.ID, Dir: dir, Format: restore.Raw})
	if err != nil {
		n.refused.Add(1)
		if !lost {
			fail("%s is said to restore: %v", p.ID, err)
		}
		if !saysWhat(err) {
			fail("restore of %s fails with %T %v, not with damage", p.ID, err, err)
		}
		if _, err := os.Lstat(dir); err == nil {
			fail("the refused restore of %s left something", p.ID)
		}
		return
	}
	n.restored.Add(1)
	if lost {
		fail("%s is said to be lost, and restores", p.ID)
	}
	for target, truth := range p.Truth {
		want, err := os.ReadFile(truth)
		got, err2 := os.ReadFile(filepath.Join(dir, target+".raw"))
		if err := errors.Join(err, err2); err != nil || !bytes.Equal(got, want) {
			n.wrong.Add(1)
			fail("WRONG RESTORE of disk %s of %s (%v)", target, p.ID, err)
		}
	}
}

// watch records accesses to the files in a directory until its result is called.
func watch(dir string) (func() []string, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_OPEN|unix.IN_ACCESS|unix.IN_MODIFY); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return func() (names []string) {
		defer unix.Close(fd)
		buf := make([]byte, 64<<10)
		n, _ := unix.Read(fd, buf)
		for at := 0; at+unix.SizeofInotifyEvent <= n; {
			length := int(binary.NativeEndian.Uint32(buf[at+12:]))
			at += unix.SizeofInotifyEvent
			names = append(names, string(bytes.TrimRight(buf[at:at+length], "\x00")))
			at += length
		}
		return names
	}, nil
}
