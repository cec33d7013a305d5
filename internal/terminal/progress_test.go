package terminal

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/vbauerster/mpb/v8/decor"
)

func TestProgressLine(t *testing.T) {
	tests := []struct {
		copied, expected int64
		elapsed          time.Duration
		want             string
	}{
		{1 << 30, 4 << 30, 10 * time.Second, "vda: 1.0 GiB of about 4.0 GiB copied, 102.4 MiB/s, about 30s left"},
		{1 << 30, -1, 10 * time.Second, "vda: 1.0 GiB copied, 102.4 MiB/s"},
		{2 << 30, 1 << 30, 10 * time.Second, "vda: 2.0 GiB copied, 204.8 MiB/s"},
		{0, 1 << 30, 0, "vda: 0 B of about 1.0 GiB copied, 0 B/s"},
	}
	for _, tt := range tests {
		if got := progressLine("vda", "copied", tt.copied, tt.expected, tt.elapsed); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}

// Bars of a run that failed do not say that they are done.
func TestProgressBars(t *testing.T) {
	for _, done := range []bool{true, false} {
		var b bytes.Buffer
		d := NewProgress(&b, BarsAlways, "copied").Of("")
		d.Update("vda", 1<<20, 4<<20)
		if _, err := d.Write([]byte("a line of the log\n")); err != nil {
			t.Fatal(err)
		}
		d.Close(done)
		d.Close(false)
		d.Update("vda", 2<<20, 4<<20) // late
		if got := b.String(); !strings.Contains(got, "vda") || !strings.Contains(got, "a line of the log\n") {
			t.Errorf("done %v: %q", done, got)
		}
		if got := strings.Contains(b.String(), "not done"); got == done {
			t.Errorf("done %v: %q", done, b.String())
		}
	}
}

// Disks of the same name of several domains have bars of their own, side by side and one
// after the other.
func TestProgressOfSeveralDomains(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&b, BarsAlways, "copied")
	one, two := p.Of("vm1"), p.Of("vm2")
	one.Update("vda", 3<<20, 4<<20)
	two.Update("vda", 1<<20, 4<<20)
	one.Close(true)
	two.Update("vda", 2<<20, 4<<20)
	two.Close(false)
	if _, err := p.Write([]byte("between them\n")); err != nil {
		t.Fatal(err)
	}
	three := p.Of("vm3")
	three.Update("vda", 1<<20, 4<<20)
	three.Close(true)
	last := map[string]string{} // what was drawn of each
	between := 0
	for line := range strings.Lines(b.String()) {
		for _, name := range []string{"vm1 vda", "vm2 vda", "vm3 vda"} {
			if strings.Contains(line, name) {
				last[name] = line
			}
		}
		between += strings.Count(line, "between them")
	}
	if !strings.HasSuffix(strings.TrimSpace(last["vm1 vda"]), " done") || !strings.Contains(last["vm2 vda"], "2.0 MiB") || !strings.Contains(last["vm2 vda"], "not done") ||
		!strings.HasSuffix(strings.TrimSpace(last["vm3 vda"]), " done") || between != 1 {
		t.Errorf("%q\n%s", last, b.String())
	}
}

// Bars tell the rate that log lines tell: bytes come in bursts, as several connections
// report at once, and what had come before the first report is no rate.
func TestBarTexts(t *testing.T) {
	tests := []struct {
		since         int64
		current       int64
		total         int64
		elapsed       time.Duration
		count, remain string
	}{
		{1 << 20, 7 << 20, 31 << 20, 2 * time.Second, "7.0 MiB / 31.0 MiB", "3.0 MiB/s  8s"},
		{1 << 20, 1 << 20, 31 << 20, 0, "1.0 MiB / 31.0 MiB", ""},
		{1 << 20, 2 << 20, 31 << 20, time.Millisecond, "2.0 MiB / 31.0 MiB", ""},
		{0, 0, 0, time.Second, "0 B / 0 B", ""},
		{0, 8 << 20, 8<<20 + 1, 2 * time.Second, "8.0 MiB / 8.0 MiB", "4.0 MiB/s  0s"},
	}
	for _, tt := range tests {
		s := decor.Statistics{Current: tt.current, Total: tt.total}
		if got := barCount(s); got != tt.count {
			t.Errorf("%+v: %q", tt, got)
		}
		if got := barRate(s, tt.since, tt.elapsed); got != tt.remain {
			t.Errorf("%+v: %q", tt, got)
		}
	}
}

func TestProgressInALog(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&b, BarsAuto, "copied")
	for _, domain := range []string{"", "vm1", "vm2"} {
		d := p.Of(domain)
		d.Update("vda", 1<<20, 4<<20)
		d.disks["vda"].said = d.disks["vda"].said.Add(-lineInterval)
		d.Update("vda", 2<<20, 4<<20)
		d.Update("vda", 3<<20, 4<<20)
		d.Update("vda", 1<<20, 4<<20) // late
		d.Close(true)
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	for i, want := range []string{"vda: 2.0 MiB of about 4.0 MiB copied", "vm1 vda: 2.0 MiB of", "vm2 vda: 2.0 MiB of"} {
		if len(lines) != 3 || !strings.HasPrefix(lines[i], want) {
			t.Errorf("got %q, want a line for each domain, %q", lines, want)
		}
	}
}
