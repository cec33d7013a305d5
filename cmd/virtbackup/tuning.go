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

// tuningFlags are the options that nobody needs to touch.
func tuningFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "compress", Value: "none", Usage: "compress the images: `HOW` is none, zstd, or zstd:LEVEL (1 fast to 19 small)"},
		&cli.StringFlag{Name: "limit-rate", Usage: "read at most `BYTES` a second over all disks: 800K, 200M, 1G (powers of 1024)"},
		&cli.IntFlag{Name: "connections", DefaultText: "2", Usage: "read each disk over `N` NBD connections"},
		&cli.StringFlag{Name: "direct", Value: "auto", Usage: "write past the page cache: `WHEN` is auto (where the file system can), always, never"},
	}
}

// tuning reads tuningFlags.
func tuning(c *cli.Context) (t backup.Tuning, err error) {
	if t.Zstd, err = parseCompression(c.String("compress")); err != nil {
		return t, err
	}
	t.Connections = c.Int("connections")
	if c.IsSet("connections") && t.Connections < 1 {
		return t, fail.Errorf(fail.Usage, "--connections 2", "--connections is a number from 1 on, not %d", t.Connections)
	}
	modes := map[string]directio.Mode{"auto": directio.Auto, "always": directio.Always, "never": directio.Never}
	mode, ok := modes[c.String("direct")]
	if !ok {
		return t, fail.Errorf(fail.Usage, "leave it out: auto is right", "--direct is auto, always or never, not %q", c.String("direct"))
	}
	t.Direct = mode
	return t, nil
}

// newLimits reads the limits that all backups of this process share.
func newLimits(c *cli.Context) (*limit.Limits, error) {
	rate, err := parseBytes("--limit-rate takes bytes a second", c.String("limit-rate"))
	if err != nil {
		return nil, err
	}
	return limit.New(rate), nil
}

// notNegative refuses options that are a time below 0, a slip of the hand: they would
// be taken for 0, or for the default.
func notNegative(c *cli.Context, options ...string) error {
	for _, name := range options {
		if d := c.Duration(name); d < 0 {
			return fail.Errorf(fail.Usage, fmt.Sprintf("--%s 30s", name), "--%s is a time from 0 on, not %v", name, d)
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

// parseBytes reads a number of bytes with an optional unit of 1024, as curl and
// rsync do. "" is no limit, 0. An error begins with what the option takes.
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
