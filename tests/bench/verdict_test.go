package bench

import (
	"strings"
	"testing"
	"time"
)

// lasting is a row of rounds that took so many seconds.
func lasting(source, contestant string, seconds ...float64) *row {
	r := &row{Source: source, Place: tmpfs, Contestant: contestant}
	for _, s := range seconds {
		r.Samples = append(r.Samples, sample{Wall: s, User: 1, Data: 2 * gib})
	}
	return r
}

// A small run has no verdicts, so this checks those of a full run.
func TestVerdicts(t *testing.T) {
	rows := []*row{
		lasting("a", "full", 9, 1.5, 0.1), lasting("a", "nbdcopy-null", 1, 1, 1), lasting("a", "direct-write", 0.5, 1.2, 9),
		lasting("a", "qemu-img", 2, 2, 2), // without nbdcopy-raw the fastest is unknown
		lasting("guest", "full", 5), lasting("guest", "virtnbdbackup", 5),
		lasting("d", "inc", 1.6),
		lasting("prune-4g", "prune-full", 1.5), lasting("prune-4g", "cp", 0.5),
	}
	want := map[string]bool{"a full : physical limit": true, "a peak memory of full, MiB": true,
		"a processor time of full, s a GiB": true, "a processor time of qemu-img, s a GiB": false, // no limit
		"guest peak memory of full, MiB": true, "d inc, seconds": false, "d peak memory of inc, MiB": true,
		"prune-4g hiding a full and merging it, without 0.5 s : cp and sync of the inc": true,
		"prune-4g written to hide a full and merge it, per byte of the inc":             true, "prune-4g peak memory of prune, MiB": true}
	got := verdicts(rows)
	if len(got) != len(want) {
		t.Errorf("%d verdicts, want %d: %+v", len(got), len(want), got)
	}
	for _, v := range got {
		met, ok := want[v.Source+" "+v.Work]
		if !ok || (v.Met == nil) != (v.Limit == 0) || v.Met != nil && *v.Met != met {
			t.Errorf("%+v, want met %v", v, met)
		}
	}
	if v := got[0]; v.Value != 1.5/1.2 {
		t.Errorf("the median over the slower of two is %v, want 1.25", v.Value)
	}
	for _, v := range got {
		if strings.Contains(v.Work, "without 0.5 s") && v.Value != 2 {
			t.Errorf("%s: %v, want 2", v.Work, v.Value)
		}
	}
}

func TestLatencies(t *testing.T) {
	got := latencies([]byte("wrote 4096/4096 bytes at offset 236761088\n4 KiB, 1 ops; 00.00 sec (11.242 MiB/sec and 2000.0000 ops/sec)\n"))
	if len(got) != 1 || got[0] != 500*time.Microsecond {
		t.Errorf("%v, want 500µs", got)
	}
}
