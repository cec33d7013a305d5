package restore

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// onLine calls what it is for each line of a log.
type onLine func(line string)

func (onLine) Enabled(context.Context, slog.Level) bool { return true }
func (h onLine) Handle(_ context.Context, r slog.Record) error {
	h(r.Message)
	return nil
}
func (h onLine) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h onLine) WithGroup(string) slog.Handler      { return h }

// Two restores that begin at the same moment both find the directory empty. What the
// other one has made is neither removed nor replaced.
func TestRestoreBesideAnother(t *testing.T) {
	repo, _ := chainOf(t, 1, 1<<20, func(int) []int64 { return []int64{0} })
	for _, theirs := range []string{"vda.qcow2.partial", "vda.qcow2", "vm1.xml"} {
		for _, format := range []Format{QCOW2, Raw} {
			dir := t.TempDir()
			name := filepath.Join(dir, strings.Replace(theirs, "qcow2", string(format), 1))
			_, err := Run(context.Background(), repo, Request{Domain: "vm1", Dir: dir, Format: format, Log: slog.New(onLine(func(line string) {
				if strings.HasPrefix(line, "restore check1") {
					must(t, os.WriteFile(name, []byte("theirs"), 0o600))
				}
			}))})
			if !errors.Is(err, fs.ErrExist) {
				t.Errorf("%s: got %v, want that it exists", name, err)
			}
			if got, _ := os.ReadFile(name); string(got) != "theirs" {
				t.Errorf("%s was removed or replaced", name)
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 1 {
				t.Errorf("%s: left: %v", name, entries)
			}
		}
	}
}
