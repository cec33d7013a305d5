package main

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/prune"
	"github.com/virtbackup/virtbackup/repository"
)

// A backup that was not made standalone is one nevertheless, with a warning.
func TestNotMadeStandalone(t *testing.T) {
	repo, err := repository.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	locked, err := repo.Lock("locked")
	if err != nil {
		t.Fatal(err)
	}
	defer locked.Unlock()
	for _, tt := range []struct {
		dir, domain string
		want        string
	}{
		{filepath.Join(repo.Dir(), "nowhere"), "vm1", "not a virtbackup repository"},
		{repo.Dir(), "vm1", "domain vm1 has no points"},
		{repo.Dir(), "locked", "is locked by"},
	} {
		var log bytes.Buffer
		result := backup.Result{Point: manifest.Manifest{ID: "check7", Kind: manifest.KindInc, Domain: tt.domain}, Warnings: []string{"first"}}
		makeStandalone(context.Background(), tt.dir, &result, prune.Options{Log: terminal.NewLogger(&log, slog.LevelWarn)})
		if result.Point.ID != "check7" || len(result.Warnings) != 2 || !strings.HasPrefix(result.Warnings[1], "check7 is an inc, and not made standalone") || !strings.Contains(result.Warnings[1], tt.want) {
			t.Errorf("%s: %+v", tt.want, result)
		}
		if !strings.Contains(log.String(), tt.want) {
			t.Errorf("%s: logged %q", tt.want, log.String())
		}
	}
}

// What is printed after a backup that was made standalone is the point as it is then.
func TestMadeStandalone(t *testing.T) {
	dir := t.TempDir()
	if err := unpackInto(dir, "format2"); err != nil {
		t.Fatal(err)
	}
	repo, err := repository.Open(filepath.Join(dir, "repo"))
	if err != nil {
		t.Fatal(err)
	}
	inc, err := repo.Point("vbtest-format2", "check7")
	if err != nil {
		t.Fatal(err)
	}
	result := backup.Result{Point: inc}
	makeStandalone(context.Background(), repo.Dir(), &result, prune.Options{Log: slog.New(slog.DiscardHandler)})
	m := result.Point
	if m.Kind != manifest.KindFull || m.Parent != "" || !m.Synthetic || m.Identity != inc.Identity || len(result.Warnings) > 0 {
		t.Errorf("%s of kind %s, synthetic %v, warnings %q", m.ID, m.Kind, m.Synthetic, result.Warnings)
	}
}
