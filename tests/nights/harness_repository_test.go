package nights

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// pointOnDisk is what a manifest says, as far as the test needs it. It is read here as
// docs/format.md describes it, not by the program's own code.
type pointOnDisk struct {
	ID       string       `json:"id"`
	Identity string       `json:"identity"`
	Kind     string       `json:"kind"`
	Parent   string       `json:"parent"`
	Time     time.Time    `json:"time"`
	Disks    []diskOnDisk `json:"disks"`
	Hidden   bool         `json:"-"`
	dir      string
}

type diskOnDisk struct {
	Target     string `json:"target"`
	Image      string `json:"image"`
	Kind       string `json:"kind"`
	DataBytes  int64  `json:"data_bytes"`
	ImageBytes int64  `json:"image_bytes"`
}

func (p pointOnDisk) isBase() bool { return strings.HasPrefix(p.ID, "check") }

func (p pointOnDisk) number() int {
	n, err := strconv.Atoi(strings.TrimLeft(p.ID, "abcdefghijklmnopqrstuvwxyz"))
	if err != nil {
		panic(err)
	}
	return n
}

var pointName = regexp.MustCompile(`^(check|diff|copy)[0-9]+$`)

// readPoints are the points that are on disk, in the order of their numbers.
func readPoints(t *testing.T, repo string) (all []pointOnDisk) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(repo, "vm1"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !pointName.MatchString(e.Name()) {
			continue
		}
		p := pointOnDisk{dir: filepath.Join(repo, "vm1", e.Name())}
		text, err := os.ReadFile(filepath.Join(p.dir, "manifest.json"))
		if err == nil {
			err = json.Unmarshal(text, &p)
		}
		if err != nil || p.ID != e.Name() {
			t.Fatalf("%s: point %q, %v", p.dir, p.ID, err)
		}
		_, err = os.Stat(filepath.Join(p.dir, "removed.json"))
		p.Hidden = err == nil
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b pointOnDisk) int { return a.number() - b.number() })
	return all
}

// listed leaves out the hidden points.
func listed(all []pointOnDisk) []pointOnDisk {
	return slices.DeleteFunc(slices.Clone(all), func(p pointOnDisk) bool { return p.Hidden })
}

func hidden(all []pointOnDisk) []pointOnDisk {
	return slices.DeleteFunc(slices.Clone(all), func(p pointOnDisk) bool { return !p.Hidden })
}

func find(all []pointOnDisk, id string) (pointOnDisk, bool) {
	i := slices.IndexFunc(all, func(p pointOnDisk) bool { return p.ID == id })
	if i < 0 {
		return pointOnDisk{}, false
	}
	return all[i], true
}

func children(all []pointOnDisk, id string) (n int) {
	for _, p := range all {
		if p.Parent == id {
			n++
		}
	}
	return n
}
