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
		p := StartProgress(&b, BarsAlways, "copied")
		p.Update("vda", 1<<20, 4<<20)
		if _, err := p.Write([]byte("a line of the log\n")); err != nil {
			t.Fatal(err)
		}
		p.Close(done)
		p.Close(false)
		if got := b.String(); !strings.Contains(got, "vda") || !strings.Contains(got, "a line of the log\n") {
			t.Errorf("done %v: %q", done, got)
		}
		if got := strings.Contains(b.String(), "not done"); got == done {
			t.Errorf("done %v: %q", done, b.String())
		}
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
	p := StartProgress(&b, BarsAuto, "copied")
	p.Update("vda", 1<<20, 4<<20)
	p.disks["vda"].said = p.disks["vda"].said.Add(-lineInterval)
	p.Update("vda", 2<<20, 4<<20)
	p.Update("vda", 3<<20, 4<<20)
	p.Update("vda", 1<<20, 4<<20) // late
	p.Close(true)
	if got := b.String(); strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, "vda: 2.0 MiB of about 4.0 MiB copied") {
		t.Errorf("got %q, want one line", got)
	}
}
