package bench

import "testing"

// TestBench runs the scenarios and prints the tables.
func TestBench(t *testing.T) {
	b := newBench(t)
	// A test of its own, because small scenarios run side by side until it ends.
	t.Run("on", func(t *testing.T) {
		for _, sc := range scenarios() {
			places := sc.places
			if !b.full {
				places = places[:1]
			}
			for _, p := range places {
				b.hold(t, sc, p)
			}
		}
	})
	b.save(t)
	t.Log("\n" + b.report().String())
}

// hold runs a scenario with its source at a place, if any of its rows is wanted.
func (b *bench) hold(t *testing.T, sc scenario, p place) {
	t.Helper()
	ways := b.choose(sc.source, p, sc.ways)
	if len(ways) == 0 {
		return
	}
	t.Run(sc.source+"/"+string(p), func(t *testing.T) {
		if !b.full {
			t.Parallel() // the times do not matter
		}
		b.compete(sc.stage(t, b.settings, p), sc.source, ways)
		// Results are saved as they come: an error in the last minute must not lose an hour of them.
		b.save(t)
	})
}
