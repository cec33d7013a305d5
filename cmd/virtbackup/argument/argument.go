// Package argument reads the values of options and arguments. Its errors are of fail.Usage
// and have a hint.
package argument

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/zstd"
)

// Compression returns the level of zstd, 0 for none.
func Compression(s string) (level int, err error) {
	name, number, hasLevel := strings.Cut(s, ":")
	switch {
	case s == "none":
		return 0, nil
	case name == "zstd" && !hasLevel:
		return zstd.DefaultLevel, nil
	case name == "zstd":
		if n, err := strconv.Atoi(number); err == nil && n > 0 {
			return n, nil
		}
	}
	return 0, fail.Errorf(fail.Usage, "--compress zstd", "--compress is none, zstd or zstd:LEVEL, not %q", s)
}

// Bytes reads a number of bytes with an optional unit of 1024, like curl and rsync. ""
// is 0, no limit. Errors begin with what, which names what the option takes.
func Bytes(what, s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	digits, factor := s, 1.0
	if i := strings.IndexByte("KMGT", s[len(s)-1]&^0x20); i >= 0 {
		digits, factor = s[:len(s)-1], math.Pow(1024, float64(i+1))
	}
	n, err := strconv.ParseFloat(digits, 64)
	if bytes := n * factor; err == nil && bytes >= 1 && bytes < math.MaxInt64 {
		return int64(bytes), nil
	}
	return 0, fail.Errorf(fail.Usage, "800K, 200M or 1.5G, for example", "%s, not %q", what, s)
}

// Zone reads the name of a time zone of the IANA database.
func Zone(name string) (*time.Location, error) {
	zone, err := time.LoadLocation(name)
	if err != nil || name == "" || name == "Local" { // these have names of their own in package time
		return nil, fail.Errorf(fail.Usage, "--timezone Europe/Berlin, or UTC; without it, days are those of this host", "there is no time zone %q", name)
	}
	return zone, nil
}

// Percent reads a whole percentage from 1% to 100%, with or without the sign. Errors begin with
// what, which names the option.
func Percent(what, s string) (int, error) {
	n, err := strconv.Atoi(strings.TrimSuffix(s, "%"))
	if err != nil || n < 1 || n > 100 || s[0] < '0' || s[0] > '9' {
		return 0, fail.Errorf(fail.Usage, what+" 10%", "%s takes a whole number from 1%% to 100%%, not %q", what, s)
	}
	return n, nil
}
