package drill

import (
	"cmp"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/restore/needs"
)

// The defaults of times.
const (
	DefaultTimeout       = 5 * time.Minute
	DefaultScriptTimeout = 5 * time.Minute
)

// minMemory is what no guest boots with less than, in bytes: a smaller number is a mistake, such as 512
// for 512M.
const minMemory = 16 << 20

// Request says what is booted, and what shows that it is up.
type Request struct {
	Domain string
	At     string // a point's id, a time or latest, as repository.Find takes it
	// Timeout is how long the guest may take until it is up; 0 is DefaultTimeout.
	Timeout time.Duration
	// Expect is a text on the serial console; "" is the guest agent's answer.
	Expect string
	// Script is a program that is run once the guest is up; its exit status is the verdict. "" is none.
	// It may take ScriptTimeout; 0 is DefaultScriptTimeout.
	Script        string
	ScriptTimeout time.Duration
	// Memory, in bytes, and VCPUs are what the guest gets; 0 is what it has, as far as the host
	// can spare it.
	Memory int64
	VCPUs  int
	// ScratchDir is where the overlays and sockets are; "" is guest.DefaultRunDir.
	ScratchDir string
	// URI is that of libvirt, for the script.
	URI string
	// Log gets warnings. nil means none.
	Log *slog.Logger
}

// Host is the libvirt of this host: *hypervisor.Conn.
type Host interface {
	needs.Host
	DomainByUUID(uuid string) (*hypervisor.Domain, error)
	CreateTransient(doc string) (*hypervisor.Domain, error)
}

// complete checks the request and fills in what it leaves out.
func (r *Request) complete() (err error) {
	r.Timeout, r.ScriptTimeout = cmp.Or(r.Timeout, DefaultTimeout), cmp.Or(r.ScriptTimeout, DefaultScriptTimeout)
	if r.Log == nil {
		r.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case r.Timeout < 0 || r.ScriptTimeout < 0:
		return fail.Errorf(fail.Usage, "--timeout 5m", "a time to wait must be more than 0")
	case r.Memory != 0 && r.Memory < minMemory:
		return fail.Errorf(fail.Usage, "--memory 512M: a number alone is bytes", "no guest boots with less than %s of memory; it would get %s", bytesize.Text(minMemory), bytesize.Text(r.Memory))
	case r.Memory > 0 && r.Memory > hostMemory():
		return fail.Errorf(fail.Usage, "--memory 512M, or leave it out: then it is as much as the host can spare", "the host has %s of memory; the guest would get %s", bytesize.Text(hostMemory()), bytesize.Text(r.Memory))
	case r.VCPUs < 0:
		return fail.Errorf(fail.Usage, "--vcpus 1", "a guest has at least one processor, not %d", r.VCPUs)
	case len(r.Expect) > maxExpect:
		return fail.Errorf(fail.Usage, "a part of the line is enough", "the text to expect has %d bytes, and may have %d", len(r.Expect), maxExpect)
	case r.Script == "":
		return nil
	}
	if r.Script, err = filepath.Abs(r.Script); err != nil {
		return err
	}
	info, err := os.Stat(r.Script)
	if err != nil {
		return fail.Errorf(fail.Usage, "name a program that is on this host", "--script: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return fail.Errorf(fail.Usage, fmt.Sprintf("chmod +x %s", r.Script), "--script: %s is not a program that can be executed", r.Script)
	}
	return nil
}
