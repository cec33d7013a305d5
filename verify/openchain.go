package verify

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"

	"github.com/virtbackup/virtbackup/manifest"
)

// image is one image of a chain.
type image struct {
	point manifest.Manifest
	disk  manifest.Disk
}

// checkChains lets qemu-img open each chain from its tip, by the backing names in
// the images, as people do without virtbackup. qemu-img joins the relative names of a
// chain into one path, which PATH_MAX limits: it cannot open some 347 links although
// every byte is as it was written. That is only a warning, as restore can read the chain.
func (d *domainRun) checkChains(ctx context.Context) error {
	damaged := map[manifest.ImageRef]bool{}
	for _, x := range d.damage {
		if ref, ok := x.Image(); ok && x.Domain == d.lineage.Domain {
			damaged[ref] = true
		}
	}
	for _, chain := range d.chains(damaged) {
		if err := d.checkChain(ctx, chain); err != nil {
			return err
		}
	}
	return nil
}

// chains returns the chains of the chosen points that are not part of a longer one, base
// first. It leaves out incomplete and damaged chains, which are reported elsewhere, and
// images without parents.
func (d *domainRun) chains(damaged map[manifest.ImageRef]bool) (chains [][]image) {
	parents := map[manifest.ImageRef]bool{}
	for _, m := range d.chosen {
		for _, disk := range m.Disks {
			if ref, err := d.lineage.Parent(m, disk); err == nil && disk.Parent != "" {
				parents[ref] = true
			}
		}
	}
	for _, m := range d.chosen {
		for _, disk := range m.Disks {
			if parents[manifest.ImageRef{Point: m.ID, Image: disk.Image}] {
				continue
			}
			if chain := d.chain(m, disk, damaged); len(chain) > 1 {
				chains = append(chains, chain)
			}
		}
	}
	return chains
}

// chain returns the chain of one image, base first; nil if it is incomplete or damaged.
func (d *domainRun) chain(m manifest.Manifest, disk manifest.Disk, damaged map[manifest.ImageRef]bool) (chain []image) {
	for {
		if damaged[manifest.ImageRef{Point: m.ID, Image: disk.Image}] {
			return nil
		}
		chain = append([]image{{m, disk}}, chain...)
		if disk.Parent == "" {
			return chain
		}
		ref, err := d.lineage.Parent(m, disk)
		if err != nil {
			return nil
		}
		parent, ok := d.lineage.Point(ref.Point)
		if !ok {
			return nil
		}
		found := false
		for _, pd := range parent.Disks {
			if pd.Image == ref.Image {
				m, disk, found = parent, pd, true
			}
		}
		if !found {
			return nil
		}
	}
}

// checkChain opens a chain. If that fails, it finds the first point of the chain that cannot
// be opened.
func (d *domainRun) checkChain(ctx context.Context, chain []image) error {
	var failed error
	faults := func(i int) string {
		if failed != nil {
			return ""
		}
		var text string
		text, failed = openChain(ctx, filepath.Join(d.repo.PointDir(chain[i].point.Domain, chain[i].point.ID), chain[i].disk.Image))
		return text
	}
	tip := chain[len(chain)-1]
	why := faults(len(chain) - 1)
	if errors.Is(failed, exec.ErrNotFound) || failed == nil && why == "" {
		return nil // checkStructure has warned that it is not installed
	}
	first := sort.Search(len(chain)-1, func(i int) bool { return faults(i) != "" })
	if failed != nil {
		return failed
	}
	points := tip.point.ID
	if first < len(chain)-1 {
		points = fmt.Sprintf("%s to %s", chain[first].point.ID, points)
	}
	d.warn(fmt.Sprintf("domain %s, disk %s: qemu-img cannot open %s, although every byte is as it was written (%s); "+
		"the chain has %d links: virtbackup restore restores these points, a new full begins a shorter chain",
		tip.point.Domain, tip.disk.Target, points, why, len(chain)))
	return nil
}

// openChain runs
//
//	qemu-img map --force-share --output=json --start-offset=0 --max-length=65536 PATH
//
// which opens all images of the chain and reads little. It returns the error message of
// qemu-img, or "". err is exec.ErrNotFound if qemu-img is not installed.
func openChain(ctx context.Context, path string) (faults string, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return "", err
	}
	out, err := qemuImg(ctx, "map", "--force-share", "-f", "qcow2", "--output=json", "--start-offset=0", "--max-length=65536", path)
	if err != nil || out.exit == nil {
		return "", err
	}
	return shorten(out.stderr, out.exit), nil
}

// mostShown is how many bytes of qemu-img's message are shown: it contains the whole path
// that is too long.
const mostShown = 200

func shorten(text string, err error) string {
	if text == "" {
		return err.Error()
	}
	if len(text) > mostShown {
		text = text[:mostShown/2] + " … " + text[len(text)-mostShown/2:]
	}
	return strings.ToValidUTF8(text, "?")
}
