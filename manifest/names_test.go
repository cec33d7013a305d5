package manifest

import (
	"strings"
	"testing"
)

func TestValidName(t *testing.T) {
	for _, name := range []string{"vm1", "my guest", "vda", "gäst", "a.b", "-x", "check1", strings.Repeat("n", 200)} {
		if err := ValidName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{
		"", ".", "..", ".hidden", "a/b", "/", "../x", "a\x00b", "a\nb", "\x7f", "a\u0085b", "\xff", LostFound, DescriptionName, strings.Repeat("n", 201),
	} {
		if ValidName(name) == nil {
			t.Errorf("%q was accepted", name)
		}
	}
}

func TestParsePointID(t *testing.T) {
	for id, want := range map[string]int{"check1": 1, "diff20": 20, "copy999999999": 999999999} {
		prefix, n, err := ParsePointID(id)
		if err != nil || n != want || !strings.HasPrefix(id, prefix) {
			t.Errorf("%s: %q %d %v", id, prefix, n, err)
		}
	}
	for _, id := range []string{
		"", "check", "check0", "check01", "check-1", "check+1", "check1 ", " check1", "checks1", "full1", "check1a",
		"check1000000000", "Check1", "check١", "1", "check1/../x", strings.Repeat("9", 500),
	} {
		if _, _, err := ParsePointID(id); err == nil {
			t.Errorf("%q was accepted", id)
		}
	}
}

func TestNextNumber(t *testing.T) {
	if n := NextNumber(); n != 1 {
		t.Errorf("none: %d, want 1", n)
	}
	if n := NextNumber("check2", "copy7", "diff3", "virtnbdbackup.40", "check99999999999"); n != 8 {
		t.Errorf("got %d, want 8", n)
	}
}

func TestParseCheckpointName(t *testing.T) {
	for name, want := range map[string]string{
		"check2.0123456789abcdef": "check2 0123456789abcdef", "check2": "", "check2.": "", "check2.0123456789abcdeF": "",
		"check2.0123456789abcdef.x": "", "x.0123456789abcdef": "", "copy12.0123456789abcdef": "copy12 0123456789abcdef",
	} {
		point, identity, ok := ParseCheckpointName(name)
		if got := strings.TrimSpace(point + " " + identity); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %v", name, got, ok)
		}
	}
}
