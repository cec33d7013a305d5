package restore

import (
	"context"
	"log/slog"
	"time"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/limit"
	"github.com/virtbackup/virtbackup/manifest"
)

// Format of the images that a restore makes.
type Format string

// The formats. Both are sparse: what reads as zeros takes no space.
const (
	QCOW2 Format = "qcow2"
	Raw   Format = "raw"
)

// Request is what a restore is asked to do.
type Request struct {
	Domain string
	// At is a point ("check3"), a time (see [manifest.Resolve]), or "latest"; "" is
	// "latest".
	At string
	// Dir takes the images. It must be empty, but for what a killed restore has left there, or
	// not exist. Symbolic links are
	// followed as the kernel follows them (localfile.RealPath).
	Dir string
	// Disks are the targets to restore, none means all. Where some are named, they are
	// restored even if the domain's XML is damaged.
	Disks  []string
	Format Format // "" is QCOW2

	// Finish, if set, is called when all is in Dir, before the restore counts as done: if it
	// fails, or the process is killed before it returns, what was made is removed, by the
	// next restore at the latest. Also are the names of what it makes in Dir.
	Finish func(ctx context.Context, result *Result) error
	Also   []string

	// Limits are shared with other runs of this process; nil: this one has its own.
	Limits *limit.Limits
	// Log gets what happens. nil means none.
	Log *slog.Logger
	// Progress, if set, is told how many bytes of a disk are restored, and how
	// many its images hold. Calls come often, from several goroutines.
	Progress func(target string, copied, expected int64)
}

func (r Request) validate() error {
	switch {
	case r.Dir == "":
		return fail.Errorf(fail.Usage, "--to DIR", "no directory to restore to")
	case r.Format != QCOW2 && r.Format != Raw:
		return fail.Errorf(fail.Usage, "--format qcow2 or --format raw", "unknown format %q", r.Format)
	}
	return nil
}

func (r Request) withDefaults() Request {
	if r.At == "" {
		r.At = manifest.Latest
	}
	if r.Format == "" {
		r.Format = QCOW2
	}
	if r.Limits == nil {
		r.Limits = limit.New(0)
	}
	if r.Log == nil {
		r.Log = slog.New(slog.DiscardHandler)
	}
	if r.Progress == nil {
		r.Progress = func(string, int64, int64) {}
	}
	return r
}

// Result is what a restore made.
type Result struct {
	Domain  string    `json:"domain"`
	Point   string    `json:"point"`
	Time    time.Time `json:"time"`
	Dir     string    `json:"dir"` // absolute, without symbolic links
	Disks   []Disk    `json:"disks"`
	XML     string    `json:"xml,omitempty"` // path of the domain's XML as it was at that point; "" where it is damaged
	Seconds float64   `json:"seconds"`

	// Warnings tell of damage that has no part in what was restored.
	Warnings []string `json:"warnings,omitempty"`
}

// Disk is one restored disk.
type Disk struct {
	Target      string `json:"target"`
	Image       string `json:"image"` // path
	Format      Format `json:"format"`
	VirtualSize int64  `json:"virtual_size"` // bytes
	DataBytes   int64  `json:"data_bytes"`
}
