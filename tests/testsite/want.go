package testsite

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/release"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// WantLine checks that some line matches.
func WantLine(t *testing.T, text, pattern string) {
	t.Helper()
	if !regexp.MustCompile("(?m)" + pattern).MatchString(text) {
		t.Errorf("no line like %s in\n%s", pattern, text)
	}
}

// WantSmall checks that the image of a disk holds what changed, not the disk.
func WantSmall(t *testing.T, p backup.Result, target string) {
	t.Helper()
	const most = 3 << 20 // of 20 MiB and more that the disks hold
	if d := DiskOf(t, p.Point, target); d.ImageBytes > most || d.DataBytes > most {
		t.Errorf("%s of %s holds %d bytes of data in %d, want %d at most", target, p.Point.ID, d.DataBytes, d.ImageBytes, most)
	}
}

// WantThawed checks that the guest's file systems can be written to.
func (s *Site) WantThawed(t *testing.T) {
	t.Helper()
	status, err := testdomain.TryVirsh(t, "qemu-agent-command", s.Name, `{"execute":"guest-fsfreeze-status"}`, "--timeout", "20")
	if err != nil || !strings.Contains(status, "thawed") {
		t.Fatalf("the guest's file systems are %s (%v)", status, err)
	}
	// libvirt's default (VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK): other tools' calls may take long.
	if state := testdomain.Tool(t, "cat", "/run/libvirt/qemu/"+s.Name+".xml"); !strings.Contains(state, "<agentTimeout>-2</agentTimeout>") {
		t.Error("the agent's response timeout is not libvirt's default again")
	}
	s.WriteFile("/mnt/alive", []byte("yes")) // with sync: it would hang
	if got := s.State(); got != "running" {
		t.Fatalf("the guest is %s", got)
	}
}

// NoPartial checks that no unfinished point is left.
func (s *Site) NoPartial() {
	s.T.Helper()
	if left, _ := filepath.Glob(filepath.Join(s.Repo, s.Name, ".partial-*")); len(left) > 0 {
		s.T.Errorf("left: %q", left)
	}
}

// WantNothingOfRun checks that no job is left, and no checkpoint but those of these points.
func (s *Site) WantNothingOfRun(points ...string) {
	s.T.Helper()
	if s.HasJob() {
		s.T.Error("a job is left")
	}
	s.WantCheckpoints(points...)
}

// WantList checks a list of a report: each line must begin with the one wanted.
func WantList(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	ok := len(got) == len(want)
	for i := range min(len(got), len(want)) {
		ok = ok && strings.HasPrefix(got[i], want[i])
	}
	if !ok {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// WantReleased checks what was removed, in this order.
func WantReleased(t *testing.T, r release.Result, checkpoints, points string) {
	t.Helper()
	if got := strings.Join(r.Checkpoints, " "); got != checkpoints {
		t.Errorf("checkpoints %q, want %q", got, checkpoints)
	}
	if got := strings.Join(r.Points, " "); got != points {
		t.Errorf("points %q, want %q", got, points)
	}
}

// WantNoControls checks that what is printed cannot steer a terminal.
func WantNoControls(t *testing.T, what, text string) {
	t.Helper()
	for _, c := range text {
		if unicode.IsControl(c) && c != '\n' || unicode.Is(unicode.Bidi_Control, c) || c == unicode.ReplacementChar {
			t.Errorf("%s prints %U: %q", what, c, text)
			return
		}
	}
}

// WantKinds checks how each disk of a point was copied: "vda inc, vdb full, vdc
// rescan".
func WantKinds(t *testing.T, m manifest.Manifest, want string) {
	t.Helper()
	var got []string
	for _, d := range m.Disks {
		how := string(d.Kind)
		if d.Method != "" {
			how = d.Method
		}
		got = append(got, d.Target+" "+how)
		if (d.Kind == manifest.KindFull) != (d.Parent == "") {
			t.Errorf("%s of %s is %s and has the parent %q", d.Target, m.ID, d.Kind, d.Parent)
		}
	}
	if strings.Join(got, ", ") != want {
		t.Errorf("point %s has %s, want %s", m.ID, strings.Join(got, ", "), want)
	}
}

// WantSaid checks that one of the remarks contains the words.
func WantSaid(t *testing.T, remarks []string, words string) {
	t.Helper()
	if !slices.ContainsFunc(remarks, func(s string) bool { return strings.Contains(s, words) }) {
		t.Errorf("nothing says %q: %q", words, remarks)
	}
}
