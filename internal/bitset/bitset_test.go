package bitset

import "testing"

func TestSet(t *testing.T) {
	var s Set
	for _, i := range []int64{3, 4, 5, 63, 64, 5000, 5000} {
		s.Add(i)
	}
	s.Remove(4)
	s.Remove(4)
	type run struct{ first, n int64 }
	var got []run
	for first, n := range s.Runs(2) {
		got = append(got, run{first, n})
	}
	want := []run{{3, 1}, {5, 1}, {63, 2}, {5000, 1}}
	if len(got) != len(want) || s.Len() != 5 || s.Has(4) || !s.Has(64) || s.Has(1<<40) || s.Next(5001) != -1 {
		t.Fatalf("got %v (%d)", got, s.Len())
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("run %d is %v, want %v", i, got[i], want[i])
		}
	}
}
