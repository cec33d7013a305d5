package inplace

import (
	"context"
	"log/slog"
	"time"

	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/limit"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/restore/reading"
)

// DefaultStopTime is how long a guest may take to shut down.
const DefaultStopTime = 5 * time.Minute

// Pass is one of the two passes over the disks.
type Pass string

// The passes.
const (
	Compare Pass = "compared" // finds out what differs; writes nothing
	Write   Pass = "written"
)

// Deps are what a restore stands on.
type Deps struct {
	Repository *repository.Repository
	Host       guest.Host
	// Power controls the domain of that name.
	Power func(name string) (Power, error)
	// Define replaces the definition of a domain by a document of the same name and UUID.
	Define func(doc string) error
	// Save makes a point of the domain as it is now, in the same repository.
	Save func(ctx context.Context, domain string) (manifest.Manifest, error)
}

// Power stops a domain, keeps it from starting, and has its definition with all secrets;
// *hypervisor.Domain is one and documents the methods.
type Power interface {
	DefinitionXML() (string, error)
	ShutDown() error
	ManagedSave() (bool, error)
	RemoveManagedSave() error
	Autostart() (bool, error)
	SetAutostart(on bool) error
}

// Request is what a restore is asked to do.
type Request struct {
	Domain string
	// At is a point, a time, or "latest", as of repository.Repository.Find.
	At string
	// Disks are the targets to restore; none means all of the point.
	Disks []string
	// Force stops a domain that runs, in order, and discards a managed save.
	Force bool
	// StopTime is how long the guest may take to shut down; 0 is DefaultStopTime.
	StopTime time.Duration
	// Exclusive: no other host uses the block devices and network file systems of this one.
	Exclusive bool
	// Salvage restores what can be restored of a damaged point: what is unknown is zeros then.
	Salvage bool
	// NoSave makes no point of the present state.
	NoSave bool
	// Confirm is asked before anything is changed, a point of the present state aside. nil is
	// yes.
	Confirm func(Overwrite) (bool, error)
	// Limits are shared with other runs of this process; nil: this one has its own.
	Limits *limit.Limits
	// Log gets what happens. nil means none.
	Log *slog.Logger
	// Progress, if set, is told how many bytes of a disk a pass has done, and how many there
	// are. Calls come often, from several goroutines.
	Progress func(pass Pass, target string, done, expected int64)
}

func (r Request) withDefaults() Request {
	if r.At == "" {
		r.At = manifest.Latest
	}
	if r.StopTime == 0 {
		r.StopTime = DefaultStopTime
	}
	if r.Confirm == nil {
		r.Confirm = func(Overwrite) (bool, error) { return true, nil }
	}
	if r.Limits == nil {
		r.Limits = limit.New(0)
	}
	if r.Log == nil {
		r.Log = slog.New(slog.DiscardHandler)
	}
	if r.Progress == nil {
		r.Progress = func(Pass, string, int64, int64) {}
	}
	return r
}

// ErrDeclined says that Confirm said no. Nothing was changed.
var ErrDeclined = fail.Sentinel(fail.Other, "", "not confirmed: nothing was overwritten")

// Overwrite is what a restore is about to overwrite.
type Overwrite struct {
	Domain string
	Point  manifest.Manifest
	Disks  []Disk
	// Extras are the paths of other files that are overwritten, UEFI variables and the like; with
	// Stops, of those that may be.
	Extras []string
	// LeftAlone are the domain's other disks, which stay as they are.
	LeftAlone []string
	// Lost are the parts of the disks that will be zeros, because what they were is lost: only
	// with Request.Salvage.
	Lost []reading.Lost
	// Saved is the point of the present state; nil if there is none.
	Saved *manifest.Manifest
	// Saves: if Saved is nil yet, it will be made before anything is overwritten.
	Saves bool
	// Newest is the newest point: without Saved, what was written since is lost.
	Newest manifest.Manifest
	// Stops: the domain runs, and will be stopped. What differs is not known before that.
	Stops bool
	// DiscardsSave: there is a managed save, which will be discarded.
	DiscardsSave bool
	// Resumed: a restore was killed while it wrote; the disks hold a mixture since Killed, which
	// is zero where it is not known.
	Resumed bool
	Killed  time.Time
	// Shared says of images that another host may use why that is so: QEMU's locks do not show
	// whether one does.
	Shared []string
	// OtherXML: the domain was defined differently at the point; its definition is not changed.
	OtherXML bool
}

// Disk is a disk that is restored in place.
type Disk struct {
	Target      string `json:"target"`
	Path        string `json:"path"` // of its top image, or device
	Format      string `json:"format"`
	VirtualSize int64  `json:"virtual_size"` // as at the point, bytes
	// ResizedFrom is the size that it has, or had, in bytes, if that is another one.
	ResizedFrom int64 `json:"resized_from,omitempty"`
	// How it was found out what differs: MethodBitmap or MethodCompare. For people: By.
	Method string `json:"method,omitempty"`
	By     string `json:"by,omitempty"`
	// Bytes are to be overwritten, or were, first MiB included.
	Bytes int64 `json:"written_bytes"`
}

// How it is found out what differs.
const (
	MethodBitmap  = "bitmap"
	MethodCompare = "compare"
)

// Result is what was restored.
type Result struct {
	Domain    string    `json:"domain"`
	Point     string    `json:"point"`
	Time      time.Time `json:"time"`
	Disks     []Disk    `json:"disks"`
	LeftAlone []string  `json:"left_alone,omitempty"`
	Saved     string    `json:"saved,omitempty"` // the point of the state before
	Resumed   bool      `json:"resumed,omitempty"`
	Stopped   bool      `json:"stopped,omitempty"` // the domain ran, and is off now: only with Request.Force
	Seconds   float64   `json:"seconds"`

	// Lost are the parts that are zeros now: only with Request.Salvage.
	Lost []reading.Lost `json:"lost,omitempty"`
	// LostFiles are the files of the point that are damaged and were not put back: only with
	// Request.Salvage.
	LostFiles []string `json:"lost_files,omitempty"`
	Notes     []string `json:"notes,omitempty"`
	Warnings  []string `json:"warnings,omitempty"`
}
