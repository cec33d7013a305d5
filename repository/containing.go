package repository

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Containing finds the repository that a path lies in, any repository, whichever
// symbolic links lead there; "" is none. The path need not exist.
func Containing(path string) (dir string, err error) {
	real, err := realPath(path)
	if err != nil {
		return "", err
	}
	for d := real; ; d = filepath.Dir(d) {
		if _, err := os.Lstat(filepath.Join(d, descriptionName)); err == nil {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", nil
		}
	}
}

// realPath is the absolute path without symbolic links, as far as it exists.
func realPath(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(path)
	absent := errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
	if !absent || path == filepath.Dir(path) {
		return real, err
	}
	if _, err := os.Lstat(path); err == nil {
		return "", fmt.Errorf("%s: a symbolic link that leads nowhere", path)
	}
	parent, err := realPath(filepath.Dir(path))
	return filepath.Join(parent, filepath.Base(path)), err
}
