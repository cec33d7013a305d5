package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// tinyChain is how many points a chain of tinyPoints has.
const tinyChain = 100

// tinyPoints makes the stage of many points, one an hour. Only the first one was written: the
// others have links to its files, and manifests of their own. A dry run that merges nothing
// opens no images.
func tinyPoints(t *testing.T, s settings, p place) *stage {
	t.Helper()
	st, h := newPastStage(t, s, p, p.dir(t), cluster)
	h.fill(1)
	st.data = h.point()
	m, err := h.repo.Point(pastDomain, h.newest())
	if err != nil {
		t.Fatal(err)
	}
	verified := map[string]repository.Verification{}
	for n := 2; n <= int(10_000/s.shrink); n++ {
		m = follow(m, n)
		h.link(m)
		digest, err := h.repo.ManifestDigest(pastDomain, m.ID)
		if err != nil {
			t.Fatal(err)
		}
		verified[m.ID] = repository.Verification{Time: m.Time, Manifest: digest, Sound: true}
	}
	if err := h.repo.SetVerified(pastDomain, verified); err != nil {
		t.Fatal(err)
	}
	return st
}

// follow is the manifest of the point with the next number.
func follow(before manifest.Manifest, n int) manifest.Manifest {
	m := before
	m.ID, m.Identity = fmt.Sprintf("check%d", n), manifest.NewIdentity()
	m.Time = before.Time.Add(time.Hour)
	m.Finished = m.Time
	d := m.Disks[0]
	m.Kind, m.Parent, m.ParentTime, m.ParentIdentity = manifest.KindFull, "", time.Time{}, ""
	d.Kind, d.Parent = manifest.KindFull, ""
	if n%tinyChain != 1 {
		m.Kind, m.Parent, m.ParentTime, m.ParentIdentity = manifest.KindInc, before.ID, before.Time, before.Identity
		d.Kind, d.Parent = manifest.KindInc, manifest.ParentPath(before.ID, d.Image)
	}
	m.Disks = []manifest.Disk{d}
	return m
}

// link makes a point of links to the files of the first one.
func (h *history) link(m manifest.Manifest) {
	h.t.Helper()
	from, to := h.repo.PointDir(pastDomain, "check1"), h.repo.PointDir(pastDomain, m.ID)
	data, err := manifest.Encode(m)
	if err == nil {
		err = os.Mkdir(to, 0o700)
	}
	for _, name := range []string{m.Disks[0].Image, m.Disks[0].HashesFile(), manifest.DomainXML} {
		if err == nil {
			err = os.Link(filepath.Join(from, name), filepath.Join(to, name))
		}
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(to, manifest.FileName), data, 0o600)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// dryRun lets rules decide. They keep whole chains, so that nothing is merged.
func (s *stage) dryRun() contestant {
	keep := strconv.FormatInt(max(500/s.shrink, 1), 10)
	return contestant{work: func(r *turn) {
		s.prune(r, s.base, "--keep-last", keep, "--keep-within", "20d", "--dry-run")
	}}
}
