// Package bytesize formats numbers of bytes for people, in units of 1024.
package bytesize

import "fmt"

// Text returns a number of bytes for a sentence: "2.5 GiB", "17 bytes".
func Text(n int64) string { return text(n, "bytes") }

// Short returns a number of bytes for a table: "2.5 GiB", "17 B".
func Short(n int64) string { return text(n, "B") }

// text uses the largest unit of which there is at least one. Negative numbers are in bytes.
func text(n int64, bytes string) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d %s", n, bytes)
	}
	value, unit := float64(n), -1
	for value >= 1023.95 && unit < 4 { // it would print as 1024.0
		value /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[unit])
}
