package verify

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// If qemu-img cannot open a chain by its backing names, although every byte is as it was
// written, a warning names the points. qemu-img is the judge of which those are.
func TestChainTooLongForQemuImg(t *testing.T) {
	if testing.Short() {
		t.Skip("352 points take long")
	}
	const links = 352
	r, err := repository.Create(filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := r.Lock("vm1")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Unlock()
	makePoint(t, l, "check1", manifest.KindFull, "", 2, "vda")
	for n := 2; n <= links; n++ {
		makePoint(t, l, fmt.Sprintf("check%d", n), manifest.KindInc, fmt.Sprintf("check%d", n-1), 1, "vda")
	}
	info := func(n int) error {
		return exec.Command("qemu-img", "info", "--backing-chain", filepath.Join(r.PointDir("vm1", fmt.Sprintf("check%d", n)), "vda.qcow2")).Run()
	}
	start := time.Now()
	report := verified(t, r, Request{})
	t.Logf("verified in %v", time.Since(start))
	if len(report.Warnings) != 1 || report.Err() != nil || len(report.Domains[0].Restores) != links {
		t.Fatalf("got %v, warnings %q, %d restore", report.Err(), report.Warnings, len(report.Domains[0].Restores))
	}
	text := report.Warnings[0]
	t.Log(text)
	var first, last int
	if m := regexp.MustCompile(`check\d+ to check\d+`).FindString(text); m == "" || !strings.Contains(text, "disk vda") {
		t.Fatalf("the warning %q does not name the points", text)
	} else if _, err := fmt.Sscanf(m, "check%d to check%d", &first, &last); err != nil || last != links {
		t.Fatalf("%s: %v", m, err)
	}
	if info(first) == nil || info(first-1) != nil {
		t.Errorf("the warning begins at check%d; qemu-img opens it: %v, the one before: %v", first, info(first), info(first-1))
	}
	// A point that can be opened is verified without a warning.
	if report := verified(t, r, Request{Domain: "vm1", Point: fmt.Sprintf("check%d", first-1)}); len(report.Warnings) > 0 {
		t.Errorf("check%d: %q", first-1, report.Warnings)
	}
}
