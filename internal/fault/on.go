//go:build faults

package fault

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	faultVariable = "VIRTBACKUP_FAULT"
	traceVariable = "VIRTBACKUP_FAULT_TRACE"
)

// The ways to break a run.
const (
	Kill  = "kill"  // SIGKILL to this process
	Term  = "term"  // SIGTERM to this process, which goes on
	Error = "error" // the point returns EIO
	Full  = "full"  // the point returns ENOSPC
	Panic = "panic" // the point panics
	Pause = "pause" // SIGSTOP to this process, which goes on after SIGCONT
)

// settle is how long to wait until a signal to ourselves has taken effect, through a channel,
// a goroutine and a context.
const settle = 100 * time.Millisecond

var state struct {
	mu     sync.Mutex
	faults map[string]string // "NAME#N" -> way
	passed map[string]int    // by name
	trace  *os.File
}

// init reads the environment. An invalid variable ends the program: a test that breaks
// nothing would pass.
func init() {
	state.faults, state.passed = map[string]string{}, map[string]int{}
	for _, entry := range strings.Split(os.Getenv(faultVariable), ",") {
		if entry == "" {
			continue
		}
		colon := strings.LastIndex(entry, ":") // a name may have one, too
		if colon < 0 {
			panic(fmt.Sprintf("%s: %q is not NAME:WAY", faultVariable, entry))
		}
		name, way := entry[:colon], entry[colon+1:]
		if !strings.Contains(name, "#") {
			name += "#1"
		}
		state.faults[name] = way
	}
	if path := os.Getenv(traceVariable); path != "" {
		trace, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			panic(err)
		}
		state.trace = trace
	}
}

// Point breaks the run here if the environment says so. Its error is an I/O error, or says
// that the disk is full.
func Point(name string) error {
	switch way := pass(name); way {
	case "":
		return nil
	case Kill:
		send(syscall.SIGKILL)
		select {} // nothing more happens until the kernel kills the process
	case Term:
		send(syscall.SIGTERM)
		time.Sleep(settle)
		return nil
	case Pause:
		send(syscall.SIGSTOP)
		time.Sleep(settle) // another thread may get it first
		return nil
	case Error:
		return &os.PathError{Op: "fault", Path: name, Err: syscall.EIO}
	case Full:
		return &os.PathError{Op: "fault", Path: name, Err: syscall.ENOSPC}
	case Panic:
		panic("fault: " + name)
	default:
		panic(fmt.Sprintf("%s: there is no way %q", faultVariable, way))
	}
}

// pass records that a point is passed, and returns how to break there.
func pass(name string) string {
	state.mu.Lock()
	defer state.mu.Unlock()
	state.passed[name]++
	nth := fmt.Sprintf("%s#%d", name, state.passed[name])
	if state.trace != nil {
		fmt.Fprintln(state.trace, nth)
	}
	return state.faults[nth]
}

func send(s syscall.Signal) {
	if err := syscall.Kill(os.Getpid(), s); err != nil {
		panic(err)
	}
}
