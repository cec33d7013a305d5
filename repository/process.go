package repository

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Process tells a process from all others of this and other hosts, also from a later
// one that was given the same number.
type Process struct {
	BootID string `json:"boot_id"` // of the kernel, /proc/sys/kernel/random/boot_id
	PID    int    `json:"pid"`
	Start  uint64 `json:"start"` // clock ticks after the boot, proc(5), starttime
}

// Self is this process.
func Self() (Process, error) {
	boot, err := bootID()
	if err != nil {
		return Process{}, err
	}
	p := Process{BootID: boot, PID: os.Getpid()}
	p.Start, err = startTime(p.PID)
	return p, err
}

// Alive tells whether the process still runs on this host. Where nobody can tell, it
// counts as alive: what is asked for is whether its leavings may be removed.
func (p Process) Alive() bool {
	boot, err := bootID()
	if err != nil {
		return true
	}
	if boot != p.BootID {
		return false // this host, or the one it ran on, has started anew
	}
	start, err := startTime(p.PID)
	if os.IsNotExist(err) {
		return false
	}
	return err != nil || start == p.Start
}

func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return string(bytes.TrimSpace(id)), err
}

// startTime reads field 22 of /proc/PID/stat. The second field is the name of the
// program in parentheses, which may hold spaces and parentheses itself.
func startTime(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const starttime = 22 - 3 // the fields behind the name begin with the third
	if len(fields) <= starttime {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields)+2)
	}
	return strconv.ParseUint(fields[starttime], 10, 64)
}
