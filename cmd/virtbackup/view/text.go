// Package view prints points, chains and reports for people. What of it is JSON, too, has its
// fields here: [Listed] and [CheckpointRow].
package view

import (
	"fmt"
	"io"
)

func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func seconds(s float64) string { return fmt.Sprintf("%.1f s", s) }

// section is a title and what is listed under it.
type section struct {
	title string
	lines []string
}

// sections prints one line for each entry, or that there is nothing.
func sections(w io.Writer, domain, nothing string, sections ...section) error {
	if nothing != "" {
		if _, err := fmt.Fprintf(w, "domain %s: %s\n", domain, nothing); err != nil {
			return err
		}
	}
	for _, s := range sections {
		for _, line := range s.lines {
			if _, err := fmt.Fprintf(w, "domain %s: %s: %s\n", domain, s.title, line); err != nil {
				return err
			}
		}
	}
	return nil
}
