package restore

import (
	"fmt"
	"log/slog"
	"time"

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
	// Dir takes the images. It must be empty, or not exist. Symbolic links are
	// followed as the kernel follows them (repository.RealPath).
	Dir string
	// Disks are the targets to restore, none means all. Where some are named, they are
	// restored even if the domain's XML is damaged.
	Disks  []string
	Format Format // "" is QCOW2
	// Log gets what happens. nil means none.
	Log *slog.Logger
	// Progress, if set, is told how many bytes of a disk are restored, and how
	// many its images hold. Calls come often, from several goroutines.
	Progress func(target string, copied, expected int64)
}

// UsageError is a request that cannot be carried out as it was worded.
type UsageError struct{ message, hint string }

// Error returns the message.
func (e *UsageError) Error() string { return e.message }

// Hint says what to do.
func (e *UsageError) Hint() string { return e.hint }

// NotFoundError says that a domain, point or disk is not in the repository.
type NotFoundError struct{ message, hint string }

// Error returns the message.
func (e *NotFoundError) Error() string { return e.message }

// Hint says what to do.
func (e *NotFoundError) Hint() string { return e.hint }

func (r Request) validate() error {
	switch {
	case r.Dir == "":
		return &UsageError{"no directory to restore to", "--to DIR"}
	case r.Format != QCOW2 && r.Format != Raw:
		return &UsageError{fmt.Sprintf("unknown format %q", r.Format), "--format qcow2 or --format raw"}
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
