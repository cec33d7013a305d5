package localfile

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// EachHole calls do with each part of a file that holds no data (lseek(2), SEEK_HOLE): it was
// never written, or is only allocated. do may write there. On a file system that does not know
// there are none.
func EachHole(path string, do func(offset, length int64) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	for at := int64(0); at < info.Size(); {
		hole, err := f.Seek(at, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		end, err := f.Seek(hole, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // nothing but holes up to the end
			end, err = info.Size(), nil
		}
		if err != nil {
			return err
		}
		if hole < end {
			if err := do(hole, end-hole); err != nil {
				return err
			}
		}
		at = end
	}
	return nil
}
