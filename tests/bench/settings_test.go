package bench

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// settings say what a run of the benchmark does.
type settings struct {
	full   bool
	rounds int
	only   *regexp.Regexp // rows to run
	shrink int64          // sizes and numbers are divided by this
}

// readSettings reads the environment.
func readSettings(t *testing.T) settings {
	t.Helper()
	s := settings{full: os.Getenv("VIRTBACKUP_BENCH") == "full", rounds: 1, shrink: 64}
	if s.full {
		s.rounds, s.shrink = 5, 1
	}
	var err error
	if text := os.Getenv("VIRTBACKUP_BENCH_ROUNDS"); text != "" {
		if s.rounds, err = strconv.Atoi(text); err != nil || s.rounds < 1 {
			t.Fatalf("VIRTBACKUP_BENCH_ROUNDS=%s is no number of rounds", text)
		}
	}
	only, chosen := os.LookupEnv("VIRTBACKUP_BENCH_ONLY")
	if !chosen && !s.full {
		only = smallRows
	}
	if s.only, err = regexp.Compile(only); err != nil {
		t.Fatalf("VIRTBACKUP_BENCH_ONLY: %v", err)
	}
	return s
}

// smallRows use all code at least once.
const smallRows = `^a/.*/(nbdcopy-(null|raw|qemu-nbd)|read|direct-write|full|full-off|qemu-img|virtnbdbackup)$|zstd|^c/.*/full$|` +
	`^d/.*/(inc|inc-off|inc-100th|virtnbdbackup-inc)$|^e/.*/copy-on-read$|^chain-30/.*/(serve|instant|qemu-img-chain)|^guest/.*/(idle|full)$|^one-arm/|^two-arms/|^commits/.*/(freeze-thaw|inc-quiesced)$|` +
	`^prune-4g/|^prune-40g/.*/prune-full$|^rewrite/.*/(prune-compact|qemu-img-run)$|^run-4/|^(tenth|year|policy)/`

// all says whether all rows are included.
func (s settings) all() bool { return s.only.String() == "" }

// absent matches the contestants that cannot run: zstd of a virtbackup that
// does not know it yet, and virtnbdbackup where it is not packaged (on Debian,
// make deps installs it).
func absent(t *testing.T) *regexp.Regexp {
	t.Helper()
	none := []string{"^$"}
	if !strings.Contains(testdomain.Tool(t, testdomain.Binary(t), "full", "--help"), "--compress") {
		none = append(none, "^"+fullZstd+"$")
	}
	if _, err := exec.LookPath("virtnbdbackup"); err != nil {
		none = append(none, "^virtnbdbackup")
	}
	t.Logf("contestants that are not here: %q", none[1:])
	return regexp.MustCompile(strings.Join(none, "|"))
}
