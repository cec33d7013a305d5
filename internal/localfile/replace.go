package localfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Replace puts a file with this content at path, on stable storage, in place of the one that
// is there. It is written under a temporary name in the same directory first: whatever ends
// the process, path has one content or the other. The caller keeps others from using the
// temporary name.
func Replace(temporary, path string, data []byte) error {
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	defer func() { _ = os.RemoveAll(temporary) }() // no-op once renamed
	if err := Write(temporary, data); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}
