package localfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// RealPath is the absolute path without symbolic links, of which the last elements
// need not exist. It resolves one element after the other, as the kernel does
// (path_resolution(7)): ".." behind a link goes up from where the link leads, which
// filepath.Abs and filepath.Join, which only look at the text, do not do. The result
// is the same file for both.
func RealPath(path string) (string, error) {
	if !filepath.IsAbs(path) {
		wd, err := os.Getwd()
		if err != nil {
			return "", err
		}
		path = wd + "/" + path
	}
	real, elements := "/", strings.Split(path, "/")
	for i, element := range elements {
		next, err := filepath.EvalSymlinks(real + "/" + element)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return absentPath(real, elements[i:])
		}
		if err != nil {
			return "", err
		}
		real = next
	}
	return real, nil
}

// absentPath is the path of elements below real of which the first does not exist.
func absentPath(real string, elements []string) (string, error) {
	first := filepath.Join(real, elements[0])
	if info, err := os.Lstat(first); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return "", fmt.Errorf("%s: a symbolic link that leads nowhere", first)
	}
	if slices.Contains(elements, "..") {
		return "", fmt.Errorf("%s/%s: %q behind what is not a directory", real, strings.Join(elements, "/"), "..")
	}
	return filepath.Join(append([]string{real}, elements...)...), nil
}
