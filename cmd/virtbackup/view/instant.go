package view

import (
	"fmt"
	"io"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/restore/instant"
)

// StandsAlone prints that a domain that ran from a point needs it no more.
func StandsAlone(w io.Writer, r instant.Result) error {
	if _, err := fmt.Fprintf(w, "domain %s stands alone in %s: it needs %s no more\n", r.Name, r.Dir, r.Point); err != nil {
		return err
	}
	for _, d := range r.Disks {
		if _, err := fmt.Fprintf(w, "  disk %s: %s\n", d.Target, d.Image); err != nil {
			return err
		}
	}
	for _, change := range r.Changes {
		if _, err := fmt.Fprintf(w, "  %s\n", change); err != nil {
			return err
		}
	}
	if r.Name != r.Domain {
		return nil
	}
	_, err := fmt.Fprintf(w, "next: virtbackup auto %s goes on with its backups\n", manifest.ShellWord(r.Name))
	return err
}

// Abandon prints what is going to be taken away.
func Abandon(w io.Writer, a instant.Abandoned) error {
	what := fmt.Sprintf("domain %s, which runs from %s, is powered off and undefined, and these", a.Name, a.Point)
	if !a.Undefined {
		what = fmt.Sprintf("no domain %s is on them: these", a.Name)
	}
	if _, err := fmt.Fprintf(w, "%s files are removed, with all that its guest has written:\n", what); err != nil {
		return err
	}
	for _, path := range a.Files {
		if _, err := fmt.Fprintf(w, "  %s\n", path); err != nil {
			return err
		}
	}
	return nil
}

// Abandoned prints what was taken away.
func Abandoned(w io.Writer, a instant.Abandoned) error {
	if !a.Undefined {
		_, err := fmt.Fprintf(w, "%d files in %s are gone; no domain %s was on them; %s is as it was\n", len(a.Files), a.Dir, a.Name, a.Point)
		return err
	}
	_, err := fmt.Fprintf(w, "domain %s is gone, with %d files in %s; %s is as it was\n", a.Name, len(a.Files), a.Dir, a.Point)
	return err
}
