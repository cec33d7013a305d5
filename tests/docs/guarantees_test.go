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
	files, err := filepath.Glob(filepath.Join(root, "docs/*.md"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	var page []byte
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		page = append(page, text...)
	}
	there := map[string]bool{}
	form := regexp.MustCompile(`(?m)^func ((Test|Fuzz)\w+)\(`)
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range form.FindAllStringSubmatch(string(text), -1) {
			there[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile("`((Test|Fuzz)[A-Z]\\w*)`").FindAllStringSubmatch(string(page), -1)
	for _, m := range names {
		if !there[m[1]] {
			t.Errorf("there is no %s", m[1])
		}
	}
	t.Logf("%d mentions of tests", len(names))
}
