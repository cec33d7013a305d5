package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// Every test that the documents name exists.
func TestGuaranteesNameTests(t *testing.T) {
	root := testdomain.Root(t)
	page := documents(t, root)
	there := tests(t, root)
	names := regexp.MustCompile("`((Test|Fuzz)[A-Z]\\w*)`").FindAllStringSubmatch(page, -1)
	for _, m := range names {
		if there[m[1]] == 0 {
			t.Errorf("there is no %s", m[1])
		}
	}
	t.Logf("%d mentions of tests", len(names))
}

// Each test that make test leaves out exists, and no other has its name: that would be left out, too.
func TestVariationsNameTests(t *testing.T) {
	root := testdomain.Root(t)
	text, err := os.ReadFile(filepath.Join(root, "scripts/variations.txt"))
	if err != nil {
		t.Fatal(err)
	}
	there := tests(t, filepath.Join(root, "tests"))
	for line := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), "/")
		if name != "" && !strings.HasPrefix(name, "#") && there[name] != 1 {
			t.Errorf("%d tests have the name %s", there[name], name)
		}
	}
}

// tests counts the tests in the packages below a directory by their names.
func tests(t *testing.T, dir string) map[string]int {
	t.Helper()
	there := map[string]int{}
	form := regexp.MustCompile(`(?m)^func ((Test|Fuzz)\w+)\(`)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range form.FindAllStringSubmatch(string(text), -1) {
			there[m[1]]++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return there
}

// documents is the text of all documents.
func documents(t *testing.T, root string) string {
	t.Helper()
	var page strings.Builder
	for _, pattern := range []string{"README.md", "CONTRIBUTING.md", "docs/*.md"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("no %s: %v", pattern, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			page.Write(text)
		}
	}
	return page.String()
}

// Every file of the source that the documents name exists, and so does every directory below
// one of the tree.
func TestDocumentsNameFiles(t *testing.T) {
	root := testdomain.Root(t)
	names := regexp.MustCompile("`((\\w[\\w-]*)/[\\w./-]*)`").FindAllStringSubmatch(documents(t, root), -1)
	n := 0
	for _, m := range names {
		source := strings.HasSuffix(m[1], ".go") || strings.HasSuffix(m[1], ".sh")
		if !source && filepath.Ext(m[1]) != "" {
			continue // docs/interop/qcow2.txt is QEMU's
		}
		if _, err := os.Stat(filepath.Join(root, m[2])); err != nil && !source {
			continue // share/doc/virtbackup is below the prefix of make install
		}
		n++
		if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
			t.Errorf("there is no %s", m[1])
		}
	}
	if n < 40 {
		t.Errorf("only %d mentions of files", n)
	}
}
