package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/limit"
	"github.com/virtbackup/virtbackup/internal/zstd"
)

// tuning reads the options about how disks are copied.
func tuning(c *cli.Context) (t backup.Tuning, err error) {
	if t.Zstd, err = parseCompression(c.String("compress")); err != nil {
		return t, err
	}
	t.Connections = c.Int("connections")
	if c.IsSet("connections") && t.Connections < 1 {
		return t, fail.Errorf(fail.Usage, "--connections 2", "--connections must be at least 1, not %d", t.Connections)
	}
	modes := map[string]directio.Mode{"auto": directio.Auto, "always": directio.Always, "never": directio.Never}
	mode, ok := modes[c.String("direct")]
	if !ok {
		return t, fail.Errorf(fail.Usage, "omit it: the default, auto, is right", "--direct is auto, always or never, not %q", c.String("direct"))
	}
	t.Direct = mode
	return t, nil
}

// newLimits reads the limits that all backups of the process share.
func newLimits(c *cli.Context) (*limit.Limits, error) {
	rate, err := parseBytes("--limit-rate takes bytes a second", c.String("limit-rate"))
	if err != nil {
		return nil, err
	}
	return limit.New(rate), nil
}

// notNegative refuses negative times, which are a mistake: they would mean 0 or the default.
func notNegative(c *cli.Context, options ...string) error {
	for _, name := range options {
		if d := c.Duration(name); d < 0 {
			return fail.Errorf(fail.Usage, fmt.Sprintf("--%s 30s", name), "--%s must be at least 0, not %v", name, d)
		}
	}
	return nil
}

// parseCompression returns the level of zstd, 0 for none.
func parseCompression(s string) (level int, err error) {
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

// parseBytes reads a number of bytes with an optional unit of 1024, like curl and rsync. ""
// is 0, no limit. Errors begin with what, which names what the option takes.
func parseBytes(what, s string) (int64, error) {
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
