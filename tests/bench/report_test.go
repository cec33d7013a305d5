package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// report is what bench.json holds. Seconds, bytes, or MiB where a name says so.
type report struct {
	Date    time.Time         `json:"date"`
	Full    bool              `json:"full"` // false: small, and no figure means anything
	Rounds  int               `json:"rounds"`
	Machine machine           `json:"machine"`
	Sources map[string]string `json:"sources"`
	Rows    []*row            `json:"rows"`
	Budgets []verdict         `json:"budgets,omitempty"`
}

// report sums up what has been measured so far.
func (b *bench) report() report {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := report{Date: b.date, Full: b.full, Rounds: b.rounds, Machine: b.machine,
		Sources: map[string]string{}, Rows: slices.Clone(b.rows)}
	for _, sc := range scenarios() {
		r.Sources[sc.source] = sc.what
	}
	if b.full {
		r.Budgets = verdicts(r.Rows)
	}
	return r
}

// file is where the report goes: one of a part of the rows, or of a small run,
// must not take the place of a whole one.
func (b *bench) file(t *testing.T) string {
	t.Helper()
	if b.full && b.all() {
		return filepath.Join(testdomain.Root(t), "bench.json")
	}
	return filepath.Join(testdomain.Root(t), ".cache", "bench.json")
}

// save writes the report.
func (b *bench) save(t *testing.T) {
	t.Helper()
	data, err := json.MarshalIndent(b.report(), "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(b.file(t)), 0o755)
	}
	if err == nil {
		err = os.WriteFile(b.file(t), append(data, '\n'), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// String is the report for people.
func (r report) String() string {
	head := fmt.Sprintf("%s, medians of %d rounds\n%s", r.Date.Format(time.DateTime), r.Rounds, r.Machine)
	if !r.Full {
		head += "A small run, to see that it works: the figures mean nothing.\n"
	}
	return head + "\n" + r.measurements() + "\n" + r.verdicts()
}

// newTable makes a table whose first columns are text.
func newTable(texts int, header ...any) table.Writer {
	w := table.NewWriter()
	w.SetStyle(table.StyleLight)
	w.Style().Format.Header = text.FormatDefault
	w.AppendHeader(header)
	var columns []table.ColumnConfig
	for i := texts; i < len(header); i++ {
		columns = append(columns, table.ColumnConfig{Number: i + 1, Align: text.AlignRight, AlignHeader: text.AlignRight})
	}
	w.SetColumnConfigs(columns)
	return w
}

// measurements is the table of the rows.
func (r report) measurements() string {
	w := newTable(2, "source", "contestant", "wall s", "from", "to", "user s", "sys s",
		"peak MiB", "in cache MiB", "stored MiB", "latency ms", "p99 ms", "gap ms")
	last := ""
	for _, x := range r.Rows {
		source := x.Source + "/" + string(x.Place)
		if last != "" && source != last {
			w.AppendSeparator()
		}
		last = source
		time := x.of(wall)
		cells := table.Row{source, x.Contestant, three(time.Median), three(time.Min), three(time.Max),
			three(x.of(user).Median), three(x.of(system).Median),
			whole(x.of(peak).Median), whole(x.of(cached).Median), whole(x.of(stored).Median)}
		if l := x.latency(); l != nil {
			cells = append(cells, three(milliseconds(l.Median)), three(milliseconds(l.P99)))
		}
		if g := x.of(gap).Median; g > 0 {
			cells = append(cells, "", "", whole(milliseconds(g)))
		}
		w.AppendRow(cells)
	}
	return w.Render() + "\n" + r.legend()
}

func (r report) legend() string {
	var b strings.Builder
	for _, sc := range scenarios() {
		fmt.Fprintf(&b, "%s: %s\n", sc.source, sc.what)
	}
	return b.String()
}

// verdicts is the table of the budgets.
func (r report) verdicts() string {
	if len(r.Budgets) == 0 {
		return ""
	}
	w := newTable(2, "source", "work", "value", "budget", "")
	met, limits := 0, 0
	for _, v := range r.Budgets {
		cells := table.Row{v.Source + "/" + string(v.Place), v.Work, two(v.Value)}
		if v.Met != nil {
			limits++
			word := "NOT MET"
			if *v.Met {
				word = "met"
				met++
			}
			cells = append(cells, two(v.Limit), word)
		}
		w.AppendRow(cells)
	}
	return w.Render() + fmt.Sprintf("\n%d of %d budgets met\n", met, limits)
}

func three(x float64) string { return fmt.Sprintf("%.3f", x) }
func two(x float64) string   { return fmt.Sprintf("%.2f", x) }
func whole(x float64) string { return fmt.Sprintf("%.0f", x) }
