package inplace

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/virtbackup/virtbackup/xml/edit"
)

// changeDomain changes what of the domain goes with its disks. Until the first MiB is written,
// the domain does not boot.
func (r *run) changeDomain(ctx context.Context) error {
	if err := r.stillOff(); err != nil {
		return err
	}
	if err := r.putExtras(ctx); err != nil {
		return err
	}
	doc, err := r.power.DefinitionXML()
	if err != nil {
		return err
	}
	doc, changed, err := withNewGeneration(doc)
	if err != nil || !changed {
		return err
	}
	if err := r.Define(doc); err != nil {
		return err
	}
	r.result.Notes = append(r.result.Notes, "the generation id (<genid>) is new, so that the guest notices that it went back in time")
	return nil
}

// withoutGeneration is the document of a domain without its generation id, which each restore
// changes.
func withoutGeneration(doc string) string {
	parsed, err := edit.Parse(doc)
	if err != nil {
		return doc
	}
	parsed.Root().Child("genid").Remove()
	text, err := parsed.Text()
	if err != nil {
		return doc
	}
	return strings.TrimSpace(text)
}

// withNewGeneration gives a domain another generation id, if it has one: it "is changed … when a
// virtual machine is … restored from backup" (formatdomain), by which Active Directory notices
// that its database went back in time.
func withNewGeneration(doc string) (changed string, has bool, err error) {
	parsed, err := edit.Parse(doc)
	if err != nil {
		return "", false, fmt.Errorf("the domain's XML: %w", err)
	}
	genid := parsed.Root().Child("genid")
	if genid == nil {
		return doc, false, nil
	}
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", false, err
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80 // RFC 4122, version 4
	genid.SetText(fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]))
	changed, err = parsed.Text()
	return changed, true, err
}
