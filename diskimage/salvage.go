package diskimage

import (
	"context"
	"errors"
	"fmt"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/qcow2/chain"
)

// OpenSalvaging opens what can be read of a chain, base first, the links that are known; below
// says why those below them are not, nil if there are none. Nothing is shown that was not
// proven: lost is called with the parts of the disk whose content is unknown, in bytes, and why;
// they read as zeros. Otherwise it is as OpenChain.
func OpenSalvaging(ctx context.Context, links []Link, below error, o hashlist.ReadOptions, lost func(offset, length int64, why error)) (_ *chain.Chain, close func(), err error) {
	var images []chain.Image
	if below != nil {
		images = append(images, chain.Image{Missing: below, VirtualSize: -1})
	}
	readers, close := OpenImages(ctx, links, o)
	for i, l := range links {
		images = append(images, chain.Image{ReaderAt: readers[i], Missing: CheckHeader(l), VirtualSize: l.Disk.VirtualSize})
	}
	opened, err := chain.OpenSalvaging(images, chain.Salvage{Lost: isDamage, Report: lost})
	if err != nil {
		close()
		return nil, nil, fmt.Errorf("%s: %w", links[len(links)-1].Path, err)
	}
	return opened, close, nil
}

func isDamage(err error) bool {
	var damaged *damage.Error
	return errors.As(err, &damaged)
}
