package tests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// hostileText moves the cursor, hides what follows and sets the title of a terminal, in
// the forms that terminals know: ESC, C1 in UTF-8, DEL, and text that runs backwards.
const hostileText = "gone\x1b[2J\x1b]0;owned\x07\u009b31m\x7f\u202exxx"

// wantNoControls: what is printed cannot steer a terminal.
func wantNoControls(t *testing.T, what, text string) {
	t.Helper()
	for _, c := range text {
		if unicode.IsControl(c) && c != '\n' || unicode.Is(unicode.Bidi_Control, c) || c == unicode.ReplacementChar {
			t.Errorf("%s prints %U: %q", what, c, text)
			return
		}
	}
}

// Texts in a repository that somebody else could write to reach no terminal as they are.
func TestHostileTexts(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.Write("vda", 0, 64<<10, 0x41)
	s.backUp(0, "full")
	s.Write("vda", 0, 64<<10, 0x42)
	s.backUp(0, "inc")
	encoded, err := json.Marshal(hostileText)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Trim(string(encoded), `"`)
	manifest := filepath.Join(s.repo, s.Name, "check2", "manifest.json")
	for _, edit := range [][2]string{
		{`"source": "`, `"reason": "` + text + `", "source": "` + text},
		{`"libvirt": "`, `"libvirt": "` + text},
		{`"files": {`, `"warnings": ["` + text + `"], "files": {`},
	} {
		if err := forge(manifest, edit[0], edit[1]); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"check9\x1b[2J", hostileText, "vm\u202e1"} {
		for _, dir := range []string{filepath.Join(s.repo, name), filepath.Join(s.repo, s.Name, name)} {
			if err := os.MkdirAll(filepath.Join(dir, "check1"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, line := range []string{"list", "list NAME", "show NAME@check2", "verify", "verify NAME", "restore NAME --at check2 --to " + s.Dir + "/r",
		"restore NAME --at check1 --disk " + hostileText + " --to " + s.Dir + "/r1", "inc NAME", "auto NAME", "list --json", "show --json NAME@check2", "verify --json"} {
		r := s.program.Run(t, strings.Fields(strings.ReplaceAll(line, "NAME", s.Name))...)
		wantNoControls(t, line+" (standard output)", r.Stdout)
		wantNoControls(t, line+" (standard error)", r.Stderr)
		if strings.Contains(line, "--json") && !json.Valid([]byte(r.Stdout)) {
			t.Errorf("%s: no JSON: %s", line, r.Stdout)
		}
		if line == "show NAME@check2" && !strings.Contains(r.Stdout, `gone\u001b[2J`) {
			t.Error("what is not printed as it is cannot be read at all")
		}
	}
}
