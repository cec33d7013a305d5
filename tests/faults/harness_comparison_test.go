package faults

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// compare compares all points with their truths: listed and hidden ones as QEMU sees them,
// listed ones as virtbackup restores them. Then verify must find no damage. What was compared
// already is not compared again: a point whose files, and those of all that it needs, are the
// same.
func (p *pruned) compare(where string) {
	p.T.Helper()
	l := p.lineage()
	sums := map[string]string{}
	for _, m := range l.All() {
		sums[m.ID] = p.sumOf(m.ID)
	}
	for _, point := range p.Points {
		if _, ok := l.Point(point.ID); !ok {
			continue
		}
		files := ""
		for _, m := range l.Needs(point.ID) {
			files += m.ID + sums[m.ID]
		}
		if p.isNew(point.ID + " " + files) {
			p.compareQEMU(where, point)
		}
		if _, hidden := l.Removals[point.ID]; !hidden && p.isNew("restored "+point.ID+" "+files) {
			p.compareRestored(where, point)
		}
	}
	if p.isNew(fmt.Sprint(p.files(), sums)) {
		p.verified(where)
	}
}

// isNew tells whether something was not seen before.
func (p *pruned) isNew(what string) bool {
	old := p.seen[what]
	p.seen[what] = true
	return !old
}

// sumOf is the digest of the files of a point, but for the note that hides it.
func (p *pruned) sumOf(id string) string {
	p.T.Helper()
	dir := filepath.Join(p.Repo, p.Name, id)
	entries, err := os.ReadDir(dir)
	if err != nil {
		p.T.Fatal(err)
	}
	sum := sha256.New()
	for _, e := range entries {
		if e.Name() == lineage.RemovedName {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			p.T.Fatal(err)
		}
		fmt.Fprintf(sum, "%s %d\n", e.Name(), len(data))
		sum.Write(data)
	}
	return string(sum.Sum(nil))
}

func (p *pruned) compareQEMU(where string, point testsite.Point) {
	p.T.Helper()
	p.compared.Add(1)
	for _, d := range point.Disks {
		p.wantSame(where+": "+point.ID, p.Image(point.Manifest, d.Target), "qcow2", point.Truth[d.Target])
	}
}

func (p *pruned) compareRestored(where string, point testsite.Point) {
	p.T.Helper()
	p.compared.Add(1)
	p.restored.Add(1)
	to := filepath.Join(p.Dir, "restored")
	p.Program.Must(p.T, nil, "restore", p.Name+"@"+point.ID, "--quiet", "--to", to, "--format", "raw")
	for _, d := range point.Disks {
		p.wantSame(where+": restored "+point.ID, filepath.Join(to, d.Target+".raw"), "raw", point.Truth[d.Target])
	}
	if err := os.RemoveAll(to); err != nil {
		p.T.Fatal(err)
	}
}

func (p *pruned) wantSame(where, image, format, truth string) {
	p.T.Helper()
	err := testdomain.TryTool(p.T, "qemu-img", "compare", "-f", format, "-F", "raw", image, truth)
	// To qemu-img two images of different lengths are the same if the rest is zeros.
	if err := errors.Join(err, sameLength(image, format, truth)); err != nil {
		p.wrong.Add(1)
		p.T.Errorf("%s: %s is wrong: %v", where, filepath.Base(image), err)
	}
}

func sameLength(image, format, truth string) error {
	want, err := os.Stat(truth)
	if err != nil {
		return err
	}
	got, err := os.Stat(image)
	if err != nil {
		return err
	}
	length := got.Size()
	if format == "qcow2" {
		header := make([]byte, 32)
		f, err := os.Open(image)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.ReadAt(header, 0); err != nil {
			return err
		}
		length = int64(binary.BigEndian.Uint64(header[24:])) // size, in docs/interop/qcow2.rst
	}
	if length != want.Size() {
		return fmt.Errorf("its length is %d bytes, that of the truth %d", length, want.Size())
	}
	return nil
}

// verified runs verify. What that notes is taken back: a policy keeps points that are verified.
func (p *pruned) verified(where string) {
	p.T.Helper()
	noted := filepath.Join(p.Repo, p.Name, "verified.json")
	before, absent := os.ReadFile(noted)
	if r := p.Program.Run(p.T, "verify", p.Name); r.Code != 0 {
		p.wrong.Add(1)
		p.T.Errorf("%s: verify: exit %d\n%s%s", where, r.Code, r.Stdout, r.Stderr)
	}
	var err error
	if absent != nil {
		err = os.Remove(noted)
	} else {
		err = os.WriteFile(noted, before, 0o600)
	}
	if err != nil {
		p.T.Fatal(err)
	}
}
