package backup

import (
	"log/slog"
	"slices"
	"time"

	"github.com/virtbackup/virtbackup/backup/plan"
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/limit"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/source"
)

// DefaultKeepCheckpoints keeps a week of nights to start a diff from. Each checkpoint
// costs QEMU 6 ms at the start of a job on a disk of 1 TiB, and memory: an inc took 0.3 s
// with one, and 2.4 s with sixty.
const DefaultKeepCheckpoints = 8

// Request is what a run is asked to do.
type Request struct {
	plan.Wanted
	source.Options
	// KeepCheckpoints is how many of our newest checkpoints stay in libvirt; that of the
	// newest full stays as well. 0 means DefaultKeepCheckpoints.
	KeepCheckpoints int
	// StallTimeout is how long the copy may make no progress before the run ends it; 0
	// means no limit.
	StallTimeout time.Duration
	Tuning
	// Limits are shared with other runs of this process. If nil, this run has its own, and
	// its rate is not limited.
	Limits *limit.Limits
	// Version of virtbackup, for the manifest.
	Version string
	// Progress, if set, is called with the progress of each disk: the bytes of the guest
	// copied so far, and libvirt's estimate of the total. It is called often, from several
	// goroutines.
	Progress func(target string, copied, expected int64)
}

// word is the domain's name, quoted for a command line.
func (r Request) word() string { return manifest.ShellWord(r.Domain) }

// Validate checks what can be checked without looking at the domain and returns
// a fail.Usage.
func (r Request) Validate() error {
	if err := r.Wanted.Validate(); err != nil {
		return err
	}
	switch {
	case !slices.Contains([]source.Quiesce{"", source.QuiesceTry, source.QuiesceRequire, source.QuiesceNo}, r.Quiesce):
		return fail.Errorf(fail.Usage, "virtbackup full --help", "--quiesce is try, require or no, not %q", r.Quiesce)
	case len(r.SocketDir) > guest.MaxSocketDir:
		return fail.Errorf(fail.Usage, "name a shorter one, or leave --socket-dir out", "the path of --socket-dir has %d bytes, and a socket's may have %d", len(r.SocketDir), guest.MaxSocketDir)
	case r.KeepCheckpoints < 0:
		return fail.Errorf(fail.Usage, "--keep-checkpoints 8", "%d checkpoints cannot be kept", r.KeepCheckpoints)
	case r.StallTimeout < 0:
		return fail.Errorf(fail.Usage, "--stall-timeout 5m; 0 waits forever", "a stall timeout of %v is negative", r.StallTimeout)
	case r.ScratchLimit < 0:
		return fail.Errorf(fail.Usage, "--scratch-limit 10G; 0 is no limit", "a scratch limit of %d bytes is negative", r.ScratchLimit)
	}
	return r.Tuning.validate()
}

func (r Request) withDefaults() Request {
	if r.Quiesce == "" {
		r.Quiesce = source.QuiesceTry
	}
	if r.KeepCheckpoints == 0 {
		r.KeepCheckpoints = DefaultKeepCheckpoints
	}
	if r.AgentTimeout == 0 {
		r.AgentTimeout = guest.DefaultAgentTimeout
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

// Result is what a run did.
type Result struct {
	Point manifest.Manifest `json:"point"`
	// Why is why auto chose the kind, "" for other kinds.
	Why string `json:"why,omitempty"`
	// Standalone says why the point is to be made standalone, by package prune, once this
	// run has ended; "" if it is not.
	Standalone string `json:"-"`
	// Notes are lines of the report. Warnings have an exit code of their own and are also
	// in the manifest.
	Notes    []string `json:"notes,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	// Recovered lists what this run cleaned up after an earlier one.
	Recovered []string `json:"recovered,omitempty"`
	Seconds   float64  `json:"seconds"`
	// Base is the parent, the zero value if there is none.
	Base manifest.Manifest `json:"-"`
}
