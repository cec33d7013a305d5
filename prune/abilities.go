package prune

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/virtbackup/virtbackup/internal/localfile"
)

// abilities are what the file system of a repository can do.
type abilities struct {
	exchange bool // of two directories, in one step
	reflink  bool // files that share data
}

// probePrefix begins names that a killed prune leaves to the next run.
const probePrefix = ".partial-probe-"

// probe tries out what the file system can do, in the directory of a domain. What it makes
// is removed again.
func probe(dir string) (a abilities, err error) {
	first, second := filepath.Join(dir, probePrefix+"1"), filepath.Join(dir, probePrefix+"2")
	defer func() { err = errors.Join(err, os.RemoveAll(first), os.RemoveAll(second)) }()
	for _, d := range []string{first, second} {
		if err := os.Mkdir(d, localfile.DirMode); err != nil {
			return a, err
		}
	}
	if a.exchange, err = supported(localfile.Exchange(first, second)); err != nil {
		return a, err
	}
	a.reflink, err = supported(probeReflink(filepath.Join(first, "1"), filepath.Join(first, "2")))
	return a, err
}

// probeReflink clones a file of one block.
func probeReflink(from, to string) (err error) {
	if err := os.WriteFile(from, make([]byte, 4096), localfile.FileMode); err != nil {
		return err
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	target, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, localfile.FileMode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	return localfile.Clone(source, target)
}

func supported(err error) (bool, error) {
	if errors.Is(err, localfile.ErrNotSupported) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("try out the file system: %w", err)
	}
	return true, nil
}
