package manifest

import (
	"fmt"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// Format is the newest layout of a repository that this program reads and the one it writes. It
// grows only when an older reader would go wrong; added fields do not count.
// Format 2 has identities, and hash lists of other ranges than 1 MiB.
const Format = 2

// ErrNewerFormat says that a file is of a later format than Format.
var ErrNewerFormat = fail.Sentinel(fail.Other,
	"use the newest virtbackup that has written to this repository",
	"made by a newer virtbackup")

// CheckFormat returns ErrNewerFormat for a format that is newer than [Format], and
// another error for a number that was never one.
func CheckFormat(format int) error {
	switch {
	case format > Format:
		return fmt.Errorf("%w: format %d, this one reads up to %d", ErrNewerFormat, format, Format)
	case format < 1:
		return fmt.Errorf("unknown format %d", format)
	}
	return nil
}
