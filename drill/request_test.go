package drill

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// What cannot be is refused, and says what to do.
func TestComplete(t *testing.T) {
	for words, r := range map[string]Request{
		"less than 16.0 MiB of memory; it would get 1 bytes": {Memory: 1},
		"of memory; the guest would get 97.7 TiB":            {Memory: 100000 << 30},
		"--script: stat /nope: no such file":                 {Script: "/nope"},
		"is not a program":                                   {Script: t.TempDir()},
		"must be more than 0":                                {Timeout: -1},
		"has 1025 bytes":                                     {Expect: strings.Repeat("x", 1025)},
	} {
		if err := r.complete(); fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), words) || fail.HintOf(err) == "" {
			t.Errorf("%v, hint %q; want %q", err, fail.HintOf(err), words)
		}
	}
	r := Request{Memory: minMemory, Script: filepath.Join("/bin", "true")}
	if err := r.complete(); err != nil || r.Timeout != DefaultTimeout || r.ScriptTimeout != DefaultScriptTimeout {
		t.Errorf("%v, %+v", err, r)
	}
}
