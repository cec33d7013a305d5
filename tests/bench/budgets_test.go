package bench

import (
	"cmp"
	"slices"
)

// budget is a limit on what a row may cost, compared with other rows or absolute, for each
// source and place where the rows that it needs were measured.
type budget struct {
	work    string
	ours    string                  // contestant
	peers   []string                // contestants; none: the figure itself is limited
	pick    func([]float64) float64 // which of the peers counts
	figure  func(sample) float64    // of which the medians are compared
	sources []string                // where it holds; none: everywhere
	against string                  // source of the peers, where it is another one
	minus   float64                 // subtracted from the figure of ours, before it is compared
	limit   float64                 // 0: none, for information
}

// first is for budgets with one peer.
func first(x []float64) float64 { return x[0] }

// slowest and fastest of several peers.
func slowest(x []float64) float64 { return slices.Max(x) }
func fastest(x []float64) float64 { return slices.Min(x) }

var (
	disks = []string{"a", "b", "c"}
	solid = []string{"a", "b"} // all that is read is data, and stored
)

var budgets = slices.Concat([]budget{
	{work: "read to nowhere : nbdcopy to null",
		ours: "read", peers: []string{"nbdcopy-null"}, pick: first, figure: wall, limit: 1.05},
	{work: "full : physical limit", sources: disks,
		ours: "full", peers: []string{"nbdcopy-null", "direct-write"}, pick: slowest, figure: wall, limit: 1.25},
	{work: "full : fastest of qemu-img, nbdcopy to raw", sources: disks,
		ours: "full", peers: []string{"qemu-img", "nbdcopy-raw"}, pick: fastest, figure: wall, limit: 1.10},
	{work: "full : nbdcopy into qemu-nbd", sources: disks,
		ours: "full", peers: []string{"nbdcopy-qemu-nbd"}, pick: first, figure: wall, limit: 0.25},
	{work: "full : nbdcopy into qemu-nbd with O_DIRECT", sources: disks,
		ours: "full", peers: []string{"nbdcopy-qemu-nbd-direct"}, pick: first, figure: wall},
	{work: "full : virtnbdbackup", sources: disks,
		ours: "full", peers: []string{"virtnbdbackup"}, pick: first, figure: wall, limit: 0.16},
	{work: "zstd full : qemu-img with zstd", sources: disks,
		ours: fullZstd, peers: []string{"qemu-img-zstd"}, pick: first, figure: wall, limit: 0.45},
	{work: "zstd image : qemu-img's", sources: disks,
		ours: fullZstd, peers: []string{"qemu-img-zstd"}, pick: first, figure: stored, limit: 1.03},
	{work: "inc, seconds", sources: []string{"d"}, ours: "inc", figure: wall, limit: 0.4},
	{work: "inc of 1 TiB : of 16 GiB, time", sources: []string{"d"}, against: "d16g",
		ours: "inc", peers: []string{"inc"}, pick: first, figure: wall},
	{work: "inc of 1 TiB : of 16 GiB, memory", sources: []string{"d"}, against: "d16g",
		ours: "inc", peers: []string{"inc"}, pick: first, figure: peak},
	{work: "100th inc : 2nd", sources: []string{"d"}, ours: "inc-100th", peers: []string{"inc"}, pick: first, figure: wall, limit: 1.10},
	{work: "full of a domain that is off : of one that runs", ours: "full-off", peers: []string{"full"}, pick: first, figure: wall, limit: 1.10},
	{work: "inc of a domain that is off : of one that runs", ours: "inc-off", peers: []string{"inc"}, pick: first, figure: wall},
	{work: "inc : copying the same clusters with qemu-img map and qemu-io", sources: []string{"e"},
		ours: "inc", peers: []string{"copy-on-read"}, pick: first, figure: wall, limit: 1.00},
	{work: "inc : copying the same clusters with qemu-img map and qemu-io", sources: []string{"d"},
		ours: "inc", peers: []string{"copy-on-read"}, pick: first, figure: wall},
	{work: "inc : virtnbdbackup", ours: "inc", peers: []string{"virtnbdbackup-inc"}, pick: first, figure: wall},
	{work: "restore : qemu-img of the chain",
		ours: "restore", peers: []string{"qemu-img-chain"}, pick: first, figure: wall, limit: 0.95},
	{work: "in place, 1 % changed, by a bitmap : restore of all",
		ours: "in-place", peers: []string{"restore"}, pick: first, figure: wall, limit: 0.25},
	{work: "peak memory of a restore in place, MiB", ours: "in-place", figure: peak, limit: maxMemory},
	{work: "two disks side by side : one after the other",
		ours: "side-by-side", peers: []string{"one-by-one"}, pick: first, figure: wall, limit: notSlower},
	{work: "largest gap between commits, quiesced inc : bare freeze and thaw",
		ours: "inc-quiesced", peers: []string{"freeze-thaw"}, pick: first, figure: gap, limit: 1.25},
	{work: "processor time of full, s a GiB", sources: solid, ours: "full", figure: processor, limit: 0.60},
	{work: "processor time of nbdcopy to raw, s a GiB", sources: solid, ours: "nbdcopy-raw", figure: processor},
	{work: "processor time of qemu-img, s a GiB", sources: solid, ours: "qemu-img", figure: processor},
	{work: "peak memory of full, MiB", ours: "full", figure: peak, limit: maxMemory},
	{work: "peak memory of zstd full, MiB", ours: fullZstd, figure: peak, limit: maxMemory},
	{work: "peak memory of inc, MiB", ours: "inc", figure: peak, limit: maxMemory},
	{work: "peak memory of full of a domain that is off, MiB", ours: "full-off", figure: peak, limit: maxMemory},
	{work: "peak memory of inc of a domain that is off, MiB", ours: "inc-off", figure: peak, limit: maxMemory},
	// 0.8 and 0.5 of its speed.
	{work: "reading all of a served point : of qemu-nbd's",
		ours: "serve", peers: []string{"serve-qemu-nbd"}, pick: first, figure: wall, limit: 1.25},
	{work: "4 KiB in random places of a served point : of qemu-nbd's",
		ours: "serve-4k", peers: []string{"serve-4k-qemu-nbd"}, pick: first, figure: wall, limit: 2},
	{work: "until a domain runs from a point, s", ours: "instant-runs", figure: wall, limit: 2},
	{work: "pull of a domain that runs from a point : qemu-img of the chain",
		ours: "instant-pull", peers: []string{"qemu-img-chain"}, pick: first, figure: wall, limit: 1.25},
	{work: "pull of a domain that runs from a point : QEMU's pull from qemu-nbd",
		ours: "instant-pull", peers: []string{"pull-qemu-nbd"}, pick: first, figure: wall, limit: 1.25},
	{work: "peak memory of restore --instant, MiB", ours: "instant-pull", figure: peak, limit: maxMemory},
	{work: "peak memory of serve, MiB", ours: "serve", figure: peak, limit: maxMemory},
	{work: "peak memory of serve, random places, MiB", ours: "serve-4k", figure: peak, limit: maxMemory},
	{work: "peak memory of restore, MiB", ours: "restore", figure: peak, limit: maxMemory},
}, pruneBudgets)

// notSlower is 1, and 5 % that are noise.
const notSlower = 1.05

// maxMemory is the memory limit in MiB, for one disk at a time.
const maxMemory = 96 + 32

// verdict is the result of a budget.
type verdict struct {
	Source string  `json:"source"`
	Place  place   `json:"place"`
	Work   string  `json:"work"`
	Value  float64 `json:"value"` // a ratio where work has a colon
	Limit  float64 `json:"limit,omitempty"`
	Met    *bool   `json:"met,omitempty"`
}

// verdicts judges all budgets whose rows were measured.
func verdicts(rows []*row) []verdict {
	var all []verdict
	for _, b := range budgets {
		for _, r := range rows {
			if r.Contestant != b.ours || len(b.sources) > 0 && !slices.Contains(b.sources, r.Source) {
				continue
			}
			if v, ok := b.judge(r, rows); ok {
				all = append(all, v)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b verdict) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(b.Place, a.Place))
	})
	return all
}

// judge compares a row of ours with what limits it.
func (b budget) judge(ours *row, rows []*row) (verdict, bool) {
	v := verdict{Source: ours.Source, Place: ours.Place, Work: b.work, Value: max(0, ours.of(b.figure).Median-b.minus), Limit: b.limit}
	if len(b.peers) > 0 {
		peers, ok := b.measured(ours, rows)
		if !ok {
			return verdict{}, false
		}
		v.Value /= b.pick(peers)
	}
	if b.limit > 0 {
		met := v.Value <= b.limit
		v.Met = &met
	}
	return v, true
}

// measured are the medians of the peers. It is false where one is missing.
func (b budget) measured(ours *row, rows []*row) ([]float64, bool) {
	var values []float64
	for _, r := range rows {
		if r.Source == cmp.Or(b.against, ours.Source) && r.Place == ours.Place && slices.Contains(b.peers, r.Contestant) {
			values = append(values, r.of(b.figure).Median)
		}
	}
	return values, len(values) == len(b.peers)
}
