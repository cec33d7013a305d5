// Package bytesize writes numbers of bytes for people.
package bytesize

import "fmt"

// Text is a number of bytes in the largest unit of which there is at least one: "2.5 GiB",
// "17 bytes". Negative numbers are in bytes.
func Text(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d bytes", n)
	}
	value, unit := float64(n)/(1<<10), 0
	for value >= 1024 && unit < 4 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[unit])
}
