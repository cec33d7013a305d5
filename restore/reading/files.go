package reading

import (
	"fmt"
	"strings"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
)

// ReadFile reads a small file of the point and compares it with its digest. Damage is a
// *damage.Error, which says what is lost with it.
func (p *Point) ReadFile(name string) ([]byte, error) {
	data, err := p.repo.ReadFile(p.Manifest, name)
	return data, p.Explain(err)
}

// DomainXML reads the domain's XML. Where disks were named, their images are what is wanted,
// and damaged XML is only a warning; nil then.
func (p *Point) DomainXML() ([]byte, error) {
	doc, err := p.repo.ReadFile(p.Manifest, manifest.DomainXML)
	switch {
	case err == nil:
		return doc, nil
	case !fail.Is(err, fail.Damaged):
		return nil, fmt.Errorf("the domain's XML: %w", err)
	case p.named:
		p.Warn(fmt.Sprintf("the domain's XML is not restored: %v", err))
		return nil, nil
	}
	return nil, fail.WithHint(fmt.Errorf("the domain's XML: %w", p.Explain(err)), "%s", p.imagesAlone())
}

// imagesAlone is the command that restores the images and no XML.
func (p *Point) imagesAlone() string {
	var disks strings.Builder
	for _, d := range p.disks {
		disks.WriteString(" --disk " + manifest.ShellWord(d.Target))
	}
	return fmt.Sprintf("virtbackup restore %s --at %s --to DIR%s restores the images alone", manifest.ShellWord(p.Domain), p.ID, &disks)
}
