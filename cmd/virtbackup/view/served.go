package view

import (
	"fmt"
	"io"

	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/serve"
)

// Served prints where the disks of a point can be read, with quiet only the addresses.
func Served(w io.Writer, s serve.Served, quiet bool) error {
	if quiet {
		for _, d := range s.Disks {
			if _, err := fmt.Fprintln(w, d.URI); err != nil {
				return err
			}
		}
		return nil
	}
	if _, err := fmt.Fprintf(w, "serving %s of domain %s, taken %s, until Ctrl-C\n", s.Point, s.Domain, manifest.TimeText(s.Time)); err != nil {
		return err
	}
	g := &terminal.Grid{Columns: []terminal.Column{{Name: "DISK"}, {Name: "SIZE", Right: true}, {Name: "URI"}}}
	for _, d := range s.Disks {
		g.Add(d.Target, bytesize.Short(d.VirtualSize), d.URI)
	}
	return g.Print(w, "  ")
}
