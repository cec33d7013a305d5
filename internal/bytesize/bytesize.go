// Package bytesize writes numbers of bytes for people, in units of 1024.
package bytesize

import "fmt"

// Text is a number of bytes for a sentence: "17 bytes", "2.5 GiB". Negative numbers are in
// bytes.
func Text(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d bytes", n)
	}
	return Short(n)
}

// Short is a number of bytes for a table: "17 B", "2.5 GiB". Negative numbers are in bytes.
func Short(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), -1
	for value >= 1023.95 && unit < 4 { // what would print as 1024.0
		value /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[unit])
}
