package drill

import (
	"bufio"
	"math"
	"os"
	"strconv"
	"strings"
)

// spareMemory is what a guest may have that is booted for a while: half of what the host has free, in
// bytes. The others need the rest. 0 is unknown.
func spareMemory() int64 {
	free, known := meminfo("MemAvailable:")
	if !known {
		return 0
	}
	return max(free/2&^(1<<20-1), minMemory)
}

// hostMemory is all that the host has, in bytes.
func hostMemory() int64 {
	total, known := meminfo("MemTotal:")
	if !known {
		return math.MaxInt64
	}
	return total
}

// meminfo is a line of /proc/meminfo, in bytes.
func meminfo(name string) (n int64, known bool) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64); ok && err == nil {
			return n << 10, true
		}
	}
	return 0, false
}
