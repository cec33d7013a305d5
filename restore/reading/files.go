package reading

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/pointfile"
)

// ReadFile reads a small file of the point and compares it with its digest. Damage is a
// *damage.Error, which says what is lost with it.
func (p *Point) ReadFile(name string) ([]byte, error) {
	data, err := p.repo.ReadFile(p.Manifest, name)
	return data, p.Explain(err)
}

// DomainXML reads the domain's XML. Where disks were named, their images are what is wanted,
// and damaged XML is only a warning; nil then. So it is with Salvage.
func (p *Point) DomainXML() ([]byte, error) {
	doc, err := p.repo.ReadFile(p.Manifest, manifest.DomainXML)
	switch {
	case err == nil:
		return doc, nil
	case !fail.Is(err, fail.Damaged):
		return nil, fmt.Errorf("the domain's XML: %w", err)
	case p.named || p.Salvage:
		p.leaveOut(manifest.DomainXML, "the domain's XML", err)
		return nil, nil
	}
	return nil, fail.WithHint(fmt.Errorf("the domain's XML: %w", p.Explain(err)), "%s", p.imagesAlone())
}

// ProveFile reads a file of the point that may be large, and compares it with its digest. Damage
// is an error or a warning like that of DomainXML; false with a warning.
func (p *Point) ProveFile(ctx context.Context, name string) (sound bool, err error) {
	found, err := pointfile.Check(ctx, p.repo.PointDir(p.Domain, p.ID), p.Manifest, name, nil)
	switch damaged := damage.ErrorOf(found); {
	case err != nil:
		return false, err
	case damaged == nil:
		return true, nil
	case p.named || p.Salvage:
		p.leaveOut(name, name, damaged)
		return false, nil
	default:
		return false, fail.WithHint(fmt.Errorf("%s: %w", name, p.Explain(damaged)), "%s", p.imagesAlone())
	}
}

// leaveOut warns of a damaged file that is not restored. It counts as lost unless disks were named:
// then it was not asked for.
func (p *Point) leaveOut(file, what string, why error) {
	p.Warn(fmt.Sprintf("%s is not restored: %v", what, why))
	if !p.named {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.lostFiles = append(p.lostFiles, file)
	}
}

// LostFiles are the files of the point that were damaged and are not restored, so far: only with
// Salvage, and without named disks.
func (p *Point) LostFiles() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.lostFiles)
}

// CopyFile writes the content of a file of the point that may be large to a new file, once all
// of it was compared with its digest. What was written is right only if the error is nil.
func (p *Point) CopyFile(ctx context.Context, name string, to io.Writer) error {
	err := pointfile.CopyTo(ctx, p.repo.PointDir(p.Domain, p.ID), p.Manifest, name, to)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return p.Explain(err)
}

// imagesAlone is the command that restores the images and no XML.
func (p *Point) imagesAlone() string {
	var disks strings.Builder
	for _, d := range p.disks {
		disks.WriteString(" --disk " + manifest.ShellWord(d.Target))
	}
	return fmt.Sprintf("virtbackup restore %s --at %s --to DIR%s restores the images alone", manifest.ShellWord(p.Domain), p.ID, &disks)
}
