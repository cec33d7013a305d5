package view

import (
	"fmt"
	"io"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/restore/define"
)

// Defined prints what a restore wrote, which domain it defined, what is not as it was, and
// what to do next.
func Defined(w io.Writer, r define.Result) error {
	if err := Restored(w, r.Result); err != nil {
		return err
	}
	state := "defined"
	if r.Started {
		state = "defined and started"
	}
	if r.Autostart {
		state += ", starts with the host"
	}
	if _, err := fmt.Fprintf(w, "domain %s is %s, UUID %s\n", r.Name, state, r.UUID); err != nil {
		return err
	}
	for _, change := range r.Changes {
		if _, err := fmt.Fprintf(w, "  %s\n", change); err != nil {
			return err
		}
	}
	next := ""
	if !r.Started {
		next = fmt.Sprintf("next: virsh start %s\n", manifest.ShellWord(r.Name))
	}
	if r.Name == r.Domain {
		next += fmt.Sprintf("next: virtbackup auto %s goes on with its backups\n", manifest.ShellWord(r.Name))
	}
	_, err := io.WriteString(w, next)
	return err
}
