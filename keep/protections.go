package keep

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/fault"
	"github.com/virtbackup/virtbackup/internal/localfile"
	"github.com/virtbackup/virtbackup/manifest"
)

// ProtectedName is the file, beside a domain's points, that lists those that must not be
// removed. It has the digest of itself: while it is damaged nothing is removed.
const ProtectedName = "protected.json"

// ProtectedTemporary is replaced under the domain's lock, so one name is enough.
const ProtectedTemporary = ".protected.json"

// Protection keeps a point from being removed, by whatever command.
type Protection struct {
	Point    string    `json:"point"`
	Identity string    `json:"identity,omitempty"`
	Since    time.Time `json:"since"`          // when it was protected, UTC
	Until    time.Time `json:"until,omitzero"` // UTC; zero: for ever
	Note     string    `json:"note,omitempty"` // for people
}

// Holds tells whether the point is protected still.
func (p Protection) Holds(now time.Time) bool { return p.Until.IsZero() || !now.After(p.Until) }

// String says for how long, and the note.
func (p Protection) String() string {
	s := "protected"
	if !p.Until.IsZero() {
		s += " until " + manifest.EndText(p.Until)
	}
	if p.Note != "" {
		s += ": " + p.Note
	}
	return s
}

// protectedFile is the content of protected.json.
type protectedFile struct {
	Format int          `json:"format"`
	Domain string       `json:"domain"` // a copy of the file says nothing of another one
	Points []Protection `json:"points"`
}

// Protections lists the points that are or were protected, by their ids, as the directory of
// their domain says; none where nothing does. Damage is a *damage.Error.
func Protections(dir string) (map[string]Protection, error) {
	f, err := readProtected(dir)
	all := map[string]Protection{}
	for _, p := range f.Points {
		all[p.Point] = p
	}
	return all, err
}

func readProtected(dir string) (f protectedFile, err error) {
	domain := filepath.Base(dir)
	data, err := localfile.ReadSmall(filepath.Join(dir, ProtectedName))
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err == nil {
		f, err = parseProtected(data, domain)
	}
	if err == nil || errors.Is(err, manifest.ErrNewerFormat) || localfile.CannotCheck(err) {
		return f, err
	}
	return protectedFile{}, fail.WithHint(&damage.Error{Points: []damage.Point{{Domain: domain, File: ProtectedName,
		Err: fmt.Errorf("%s of domain %s, which says what must not be removed: %w", ProtectedName, domain, err)}}},
		"nothing is removed while it is damaged: move it away, and protect the points again")
}

// parseProtected reads the content of the protected.json of a domain strictly.
func parseProtected(data []byte, domain string) (f protectedFile, err error) {
	if err := digest.ParseJSON(data, &f); err != nil {
		return protectedFile{}, err
	}
	if err := manifest.CheckFormat(f.Format); err != nil {
		return protectedFile{}, err
	}
	if f.Domain != domain {
		return protectedFile{}, fmt.Errorf("is that of domain %q: put here by hand", f.Domain)
	}
	seen := map[string]bool{}
	for _, p := range f.Points {
		if _, _, err := manifest.ParsePointID(p.Point); err != nil {
			return protectedFile{}, err
		}
		if seen[p.Point] {
			return protectedFile{}, fmt.Errorf("%s is there twice", p.Point)
		}
		seen[p.Point] = true
	}
	return f, nil
}

// ChangeProtections replaces the protections in the directory of a domain by changed ones, on
// stable storage. The caller holds the domain's lock. Damage is a *damage.Error, and nothing
// is changed then.
func ChangeProtections(dir string, change func([]Protection) []Protection) error {
	f, err := readProtected(dir)
	if err != nil {
		return err
	}
	f.Points = change(f.Points)
	slices.SortFunc(f.Points, func(a, b Protection) int {
		return cmp.Or(cmp.Compare(manifest.NextNumber(a.Point), manifest.NextNumber(b.Point)), strings.Compare(a.Point, b.Point))
	})
	f.Format, f.Domain = manifest.Format, filepath.Base(dir)
	if f.Points == nil {
		f.Points = []Protection{}
	}
	data, err := digest.EncodeJSON(f)
	if err != nil {
		return err
	}
	err = fault.Around("protect", func() error {
		return localfile.Replace(filepath.Join(dir, ProtectedTemporary), filepath.Join(dir, ProtectedName), data)
	})
	if err != nil {
		return fmt.Errorf("protect points of domain %s: %w", f.Domain, err)
	}
	return nil
}
