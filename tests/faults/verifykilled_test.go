package faults

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testsite"
	"github.com/virtbackup/virtbackup/verify"
)

// A verification with a limit of time that is killed between two points was not for nothing: the
// next one goes on with those that are left.
func TestVerifyKilledBetweenPoints(t *testing.T) {
	t.Parallel()
	s := testsite.Filled(t)
	s.BackUp(0, "full")
	s.WriteAll(2)
	s.BackUp(0, "inc")
	s.StartBroken("verify: note a point#2:kill", nil, "verify", "--max-duration", "1h").Wait()
	var report verify.Report
	if err := json.Unmarshal([]byte(s.Program.Must(t, []int{3}, "verify", s.Name, "--max-duration", "1ns", "--json").Stdout), &report); err != nil {
		t.Fatal(err)
	}
	if d := report.Domains[0]; !slices.Equal(d.Restores, []string{"check2"}) || !slices.Equal(d.Left, []string{"check1"}) {
		t.Errorf("after the kill: %+v", d)
	}
	s.Check()
}
