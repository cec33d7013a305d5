package instants

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Process identifies a process among all of this and other hosts, and later ones of the
// same number.
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
	now, err := readStat(p.PID)
	p.Start = now.start
	return p, err
}

// Alive tells whether the process still runs on this host. If that is unknown it
// counts as alive: the answer decides whether what it left may be removed.
func (p Process) Alive() bool {
	boot, err := bootID()
	if err != nil {
		return true
	}
	if boot != p.BootID {
		return false // this host, or the one it ran on, was restarted
	}
	now, err := readStat(p.PID)
	if os.IsNotExist(err) {
		return false
	}
	return err != nil || now.start == p.Start && !now.ended()
}

func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return string(bytes.TrimSpace(id)), err
}

// stat is what /proc/PID/stat says of a process, see proc(5).
type stat struct {
	state   string
	threads int
	start   uint64 // clock ticks after the boot
}

// ended tells whether the process is a zombie: it has closed its files, and is there only
// until its parent waits for it, which the first process of a container may never do. A
// process whose first thread has ended looks the same while another is in a call that the
// kernel does not end, and is not over yet.
func (s stat) ended() bool { return (s.state == "Z" || s.state == "X") && s.threads <= 1 }

// readStat reads what is known of a process. The second field is the name of the program in
// parentheses, which may hold spaces and parentheses itself.
func readStat(pid int) (s stat, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return s, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const state, threads, starttime = 0, 17, 19 // fields 3, 20 and 22 of proc(5): the third is the first behind the name
	if len(fields) <= starttime {
		return s, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields)+2)
	}
	s.state = fields[state]
	if s.threads, err = strconv.Atoi(fields[threads]); err == nil {
		s.start, err = strconv.ParseUint(fields[starttime], 10, 64)
	}
	return s, err
}
