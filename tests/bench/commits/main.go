// Command commits does what a database does: it appends to a log, and waits until that is
// on stable storage. It runs in the guest of the benchmark, until SIGTERM, and prints the
// largest gap between two commits in microseconds, and their number.
//
//	commits FILE
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	record = 8 << 10  // bytes of a commit: a page of PostgreSQL
	size   = 16 << 20 // of the log, which is written over and over: a segment of PostgreSQL
	// rest between two commits, for a guest that is busy and not saturated: its agent
	// must get its turn, too.
	rest = 2 * time.Millisecond
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(path string) error {
	log, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	// The log has all its blocks before the first commit, so that each is data alone.
	if _, err := log.Write(make([]byte, size)); err != nil {
		return err
	}
	if err := log.Sync(); err != nil {
		return err
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	fmt.Println("ready")
	var largest time.Duration
	page, number := make([]byte, record), int64(0)
	for last := time.Now(); ; number++ {
		select {
		case <-ended:
			fmt.Println(largest.Microseconds(), number)
			return nil
		case <-time.After(rest):
		}
		if _, err := log.WriteAt(page, number*record%size); err != nil {
			return err
		}
		if err := syscall.Fdatasync(int(log.Fd())); err != nil {
			return err
		}
		now := time.Now()
		largest, last = max(largest, now.Sub(last)), now
	}
}
