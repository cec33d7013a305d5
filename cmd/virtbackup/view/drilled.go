package view

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/virtbackup/virtbackup/drill/record"
	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/manifest"
)

// Drilled prints the result of a drill; dir is where its record is.
func Drilled(w io.Writer, r record.Record, dir string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s@%s has booted: %s\n", r.Domain, r.Point, howBooted(r))
	fmt.Fprintf(&b, "  with %s of memory and %s\n", bytesize.Short(r.Memory), processors(r.VCPUs))
	for _, note := range r.Notes {
		fmt.Fprintf(&b, "  note: %s\n", note)
	}
	if r.Script != nil {
		if lines := strings.Split(strings.TrimSpace(r.Script.Output), "\n"); lines[len(lines)-1] != "" {
			fmt.Fprintf(&b, "  the script says: %s\n", lines[len(lines)-1])
		}
	}
	fmt.Fprintf(&b, "  record: %s\n", filepath.Join(dir, r.ID+".json"))
	if r.Screenshot != "" {
		fmt.Fprintf(&b, "  screenshot: %s\n", filepath.Join(dir, r.Screenshot))
	}
	_, err := io.WriteString(w, terminal.Plain(b.String()))
	return err
}

// howBooted says when a guest was up, and what showed it.
func howBooted(r record.Record) string {
	by := map[string]string{record.ByAgent: "its guest agent answered", record.ByConsole: "the text stood on its console", record.ByScript: "it was up"}[r.By]
	text := fmt.Sprintf("%s after %s", by, seconds(r.Seconds))
	if r.Script != nil {
		text += fmt.Sprintf(", and %s took %s and found it good", filepath.Base(r.Script.Path), seconds(r.Script.Seconds))
	}
	return text
}

func processors(n int) string {
	if n == 1 {
		return "1 processor"
	}
	return fmt.Sprintf("%d processors", n)
}

// bootedText is what show says of the last drill.
func bootedText(r record.Record) string {
	if !r.Booted {
		return "NO, on " + manifest.TimeText(r.Time) + ": " + r.Reason
	}
	return manifest.TimeText(r.Time) + ", " + howBooted(r)
}
