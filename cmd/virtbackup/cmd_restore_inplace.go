package main

import (
	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// inPlaceFlags are those of restore --in-place.
func inPlaceFlags() []cli.Flag { return nil }

// restoreInPlace puts the domain's own disks back to what they were at the point.
func restoreInPlace(*cli.Context, chosenPoint) error {
	return fail.Errorf(fail.Usage, "", "--in-place is not there yet")
}
