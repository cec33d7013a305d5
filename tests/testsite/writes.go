package testsite

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// WriteAll changes every disk.
func (s *Site) WriteAll(round int64) {
	s.T.Helper()
	for _, d := range s.Disks {
		s.IO(d.Target, fmt.Sprintf("write -P %#x %d 100k", round, round<<20), fmt.Sprintf("write -z 1M %d", round*5000),
			fmt.Sprintf("write -P %#x 3M 1000", 0x80+round))
	}
}

// Noise is a file of a MiB that nothing compresses, for qemu-io's write -s.
func (s *Site) Noise() string {
	s.T.Helper()
	path := filepath.Join(s.Dir, "noise")
	if _, err := os.Lstat(path); err == nil {
		return path
	}
	data := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(data)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		s.T.Fatal(err)
	}
	return path
}
