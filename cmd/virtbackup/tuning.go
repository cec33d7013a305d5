package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/cmd/virtbackup/argument"
	"github.com/virtbackup/virtbackup/internal/directio"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/limit"
)

// tuning reads the options about how disks are copied.
func tuning(c *cli.Context) (t backup.Tuning, err error) {
	if t.Zstd, err = argument.Compression(c.String("compress")); err != nil {
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
	rate, err := argument.Bytes("--limit-rate takes bytes a second", c.String("limit-rate"))
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
