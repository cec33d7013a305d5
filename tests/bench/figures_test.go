package bench

import (
	"encoding/json"
	"slices"
	"time"
)

// figures sum up what was measured of something in all rounds.
type figures struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// of sums up one figure of a row's samples.
func (r *row) of(figure func(sample) float64) figures {
	values := make([]float64, len(r.Samples))
	for i, x := range r.Samples {
		values[i] = figure(x)
	}
	slices.Sort(values)
	return figures{quantile(values, 0.5), values[0], values[len(values)-1]}
}

func wall(x sample) float64   { return x.Wall }
func user(x sample) float64   { return x.User }
func system(x sample) float64 { return x.System }
func peak(x sample) float64   { return float64(x.Peak) / mib }
func cached(x sample) float64 { return float64(x.Cached) / mib }
func stored(x sample) float64 { return float64(x.Stored) / mib }

func gap(x sample) float64 { return x.Gap }

// writtenShare is what was written to the device for each byte of data.
func writtenShare(x sample) float64 { return float64(x.Written) / float64(x.Data) }

// storedShare is what a repository takes for each byte of its listed points.
func storedShare(x sample) float64 { return float64(x.Stored) / float64(x.Live) }

// processor is the processor time, of all processes of a contestant, for each GiB.
func processor(x sample) float64 { return (x.User + x.System) / (float64(x.Data) / gib) }

// quantile is that of sorted values, between neighbours in proportion.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 == len(sorted) {
		return sorted[i]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

// latency sums up the guest's writes of all rounds.
type latency struct {
	Writes int     `json:"writes"`
	Median float64 `json:"median"` // seconds
	P99    float64 `json:"p99"`    // seconds
}

// latency is nil where no guest was writing.
func (r *row) latency() *latency {
	var all []float64
	for _, x := range r.Samples {
		for _, l := range x.latencies {
			all = append(all, l.Seconds())
		}
	}
	if len(all) == 0 {
		return nil
	}
	slices.Sort(all)
	return &latency{len(all), quantile(all, 0.5), quantile(all, 0.99)}
}

// MarshalJSON adds the sums: seconds, and MiB.
func (r *row) MarshalJSON() ([]byte, error) {
	type plain row
	return json.Marshal(struct {
		*plain
		Wall    figures  `json:"wall"`
		User    figures  `json:"user"`
		System  figures  `json:"system"`
		Peak    figures  `json:"peak_mib"`
		Cached  figures  `json:"cached_mib"`
		Stored  figures  `json:"stored_mib"`
		Gap     figures  `json:"gap"`
		Latency *latency `json:"latency,omitempty"`
	}{(*plain)(r), r.of(wall), r.of(user), r.of(system), r.of(peak), r.of(cached), r.of(stored), r.of(gap), r.latency()})
}

// milliseconds for a table.
func milliseconds(seconds float64) float64 {
	return seconds * float64(time.Second/time.Millisecond)
}
