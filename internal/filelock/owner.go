package filelock

import (
	"encoding/json"
	"os"
	"time"
)

// Owner is the content of a lock file. It is for people only: the lock itself is flock(2),
// so a dead process is no obstacle.
type Owner struct {
	PID     int       `json:"pid"`
	Host    string    `json:"host"`
	Started time.Time `json:"started"` // UTC
}

// WriteOwner notes in a locked file that this process has the lock. Errors are ignored: the
// lock holds without the note, and on a full disk a run must still be able to clean up.
func WriteOwner(f *os.File) {
	host, _ := os.Hostname()
	data, err := json.Marshal(Owner{PID: os.Getpid(), Host: host, Started: time.Now().UTC()})
	if err == nil && f.Truncate(0) == nil {
		_, _ = f.WriteAt(append(data, '\n'), 0)
	}
}

// ReadOwner reads who holds the lock; the zero value if it has not written that yet. Between
// its flock and its write the file is empty or stale for some microseconds; the short waits
// cover that.
func ReadOwner(f *os.File) Owner {
	for range 5 {
		buf := make([]byte, 4096)
		n, _ := f.ReadAt(buf, 0)
		var o Owner
		if json.Unmarshal(buf[:n], &o) == nil {
			return o
		}
		time.Sleep(5 * time.Millisecond)
	}
	return Owner{}
}
