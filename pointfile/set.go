package pointfile

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

// Set is the files of a point that is being made, with their digests. Its methods are safe for
// concurrent use.
type Set struct {
	id, dir string

	mu      sync.Mutex
	closed  bool
	digests map[string]string
}

// NewSet returns a set without files, of the point that dir will be. dir is beside the sealed
// points of the domain.
func NewSet(id, dir string) *Set { return &Set{id: id, dir: dir, digests: map[string]string{}} }

// WriteFile adds a small file (domain.xml, checkpoint.xml) to the point, on stable storage.
func (s *Set) WriteFile(name string, data []byte) error {
	return s.add(name, func(path string) (string, error) { return digest.Of(data), localfile.Write(path, data) })
}

// CopyFile is WriteFile for a file of any size. It returns its digest, and its size in bytes.
// An error of from is part of the error.
func (s *Set) CopyFile(name string, from io.Reader) (sum string, size int64, err error) {
	err = s.add(name, func(path string) (string, error) {
		sum, size, err = Write(path, from)
		return sum, err
	})
	return sum, size, err
}

// LinkFile adds a file that a sealed point of the domain has, as another name of it (link(2)):
// no file of a sealed point is ever written to.
func (s *Set) LinkFile(name string, of manifest.Manifest, file string) error {
	return s.add(name, func(path string) (string, error) {
		return of.Files[file], os.Link(filepath.Join(filepath.Dir(s.dir), of.ID, file), path)
	})
}

// DropFile removes a file that was added.
func (s *Set) DropFile(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.digests, name)
	return os.Remove(filepath.Join(s.dir, name))
}

// Note adds a file that is there, with its digest.
func (s *Set) Note(name, digest string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.digests[name] = digest
}

// Digests are those of the files, by their names.
func (s *Set) Digests() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.digests)
}

// Close makes every further call fail that adds a file.
func (s *Set) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// add adds a file that write makes, under a name that is new; it returns the digest.
func (s *Set) add(name string, write func(path string) (digest string, err error)) error {
	if err := manifest.ValidName(name); err != nil {
		return fmt.Errorf("write file of point %s: %w", s.id, err)
	}
	if name == manifest.FileName {
		return fmt.Errorf("write file of point %s: %s is written last", s.id, name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("write %s: point %s is closed", name, s.id)
	}
	digest, err := write(filepath.Join(s.dir, name))
	if err != nil {
		return fmt.Errorf("write file of point %s: %w", s.id, err)
	}
	s.digests[name] = digest
	return nil
}
