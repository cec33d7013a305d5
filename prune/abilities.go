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
	a.exchange, err = supported(localfile.Exchange(first, second))
	return a, err
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
