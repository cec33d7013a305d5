package reading

import (
	"context"
	"errors"
	"slices"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
)

// CheckRest reads what the copy has not read of the images of all disks, and compares it with
// its hashes. copyErr is the error of the copy; what was copied is right only if both have
// succeeded, so if CheckRest returns nil. Damage takes precedence: a copy from a damaged image
// may fail in any way. With Salvage what the copy has not read does not matter.
func (p *Point) CheckRest(ctx context.Context, copyErr error) error {
	if p.Salvage {
		return p.Explain(copyErr)
	}
	if copyErr != nil && (p.Ours(copyErr) || fail.Is(copyErr, fail.Bug)) {
		return copyErr
	}
	checkErr := p.check(ctx)
	switch {
	case ctx.Err() != nil && errors.Join(copyErr, checkErr) != nil:
		return context.Cause(ctx) // everything fails then, in no particular order
	case copyErr == nil || fail.Is(checkErr, fail.Damaged):
		return checkErr
	}
	return p.Explain(copyErr)
}

// check reads what is not proven yet of every image of the chains. The error is a
// *damage.Error where what a restore reads is not as it was written.
func (p *Point) check(ctx context.Context) error {
	ofChain := make([][]damage.Place, len(p.chains))
	err := p.Limits.EachDisk(ctx, len(p.chains), func(ctx context.Context, i int) (err error) {
		ofChain[i], err = p.checkChain(ctx, p.chains[i])
		return err
	})
	if err != nil {
		return err
	}
	found := slices.Concat(ofChain...)
	for _, d := range found {
		if d.Harmless {
			p.Warn(d.String())
		}
	}
	return p.Explain(damage.ErrorOf(found))
}

// checkChain reads what is not proven yet of the images of a chain, up to the first that
// is damaged: the others are of no use then.
func (p *Point) checkChain(ctx context.Context, chain []link) (found []damage.Place, err error) {
	for _, link := range chain {
		if err := fault.Point("restore: check image"); err != nil {
			return nil, err
		}
		ofImage, err := diskimage.Check(ctx, link.Link, hashlist.CheckOptions{Proven: link.proven, Misread: p.Warn, Wait: p.Limits.WaitN})
		if err != nil {
			return nil, err
		}
		found = append(found, ofImage...)
		if damage.ErrorOf(ofImage) != nil {
			break
		}
	}
	return found, nil
}
