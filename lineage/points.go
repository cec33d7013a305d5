package lineage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/drill/record"
	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/manifest"
)

// Point is a point as it was read.
type Point struct {
	manifest.Manifest
	Digest  string // of manifest.json
	Hidden  bool
	Removal Removal // of a hidden point
	Bad     error   // why a removed.json that is there hides nothing
}

// IDs lists what should be the points in the directory of a domain, in no order; none where
// there is no directory. It is a *damage.Error where that is something else.
func IDs(dir string) ([]string, error) {
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && !info.IsDir() { // a symbolic link may lead outside
		return nil, &damage.Error{Points: []damage.Point{{Domain: filepath.Base(dir), Err: fmt.Errorf("%s is not a directory", dir)}}}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list points: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if looksLikePoint(e) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// looksLikePoint: every visible directory but those of pins and drills should be a point, and whatever
// has a point's name should be a directory. Dot names are runs under way, or somebody
// else's.
func looksLikePoint(e fs.DirEntry) bool {
	if strings.HasPrefix(e.Name(), ".") || slices.Contains([]string{manifest.LostFound, keep.PinsName, record.DirName}, e.Name()) {
		return false
	}
	_, _, err := manifest.ParsePointID(e.Name())
	return e.IsDir() || err == nil
}

// ReadPoint reads the manifest of a point in the directory of a domain, and whether it was
// removed. A removed.json that is damaged, or that of another point, hides nothing: the
// point's data is whole, and who removes data has to know why.
//
// removed.json is read first. A hidden point that is deleted meanwhile has no manifest then; the
// other way round it would look like a listed point.
func ReadPoint(dir, id string) (Point, error) {
	data, readErr := localfile.ReadSmall(filepath.Join(dir, id, RemovedName))
	m, sum, err := readManifest(dir, id)
	if err != nil || errors.Is(readErr, fs.ErrNotExist) {
		return Point{Manifest: m, Digest: sum}, err
	}
	removal, err := Removal{}, readErr
	if err == nil {
		removal, err = parseRemoval(data, m)
	}
	if err != nil {
		return Point{Manifest: m, Digest: sum, Bad: fmt.Errorf("%s: %w", RemovedName, err)}, nil
	}
	return Point{m, sum, true, removal, nil}, nil
}

// IsGone tells whether there is nothing of a point's name.
func IsGone(dir, id string) bool {
	_, err := os.Lstat(filepath.Join(dir, id))
	return errors.Is(err, fs.ErrNotExist)
}

// ReadManifest reads the manifest of a point in the directory of a domain, and checks that it
// belongs there.
func ReadManifest(dir, id string) (manifest.Manifest, error) {
	m, _, err := readManifest(dir, id)
	return m, err
}

// readManifest returns the digest of the file, too.
func readManifest(dir, id string) (manifest.Manifest, string, error) {
	if _, _, err := manifest.ParsePointID(id); err != nil {
		return manifest.Manifest{}, "", err
	}
	point := filepath.Join(dir, id)
	for _, dir := range []string{dir, point} {
		info, err := os.Lstat(dir)
		if err != nil {
			return manifest.Manifest{}, "", err
		}
		if !info.IsDir() { // a symbolic link may lead outside
			return manifest.Manifest{}, "", fmt.Errorf("%s is not a directory", dir)
		}
	}
	data, err := localfile.ReadSmall(filepath.Join(point, manifest.FileName))
	if err != nil {
		return manifest.Manifest{}, "", err
	}
	m, err := manifest.Parse(data)
	if err != nil {
		return manifest.Manifest{}, "", fmt.Errorf("%s: %w", manifest.FileName, err)
	}
	if m.ID != id || m.Domain != filepath.Base(dir) {
		return manifest.Manifest{}, "", fmt.Errorf("%s: is that of %s of domain %s: moved or renamed by hand", manifest.FileName, m.ID, m.Domain)
	}
	return m, digest.Of(data), nil
}
