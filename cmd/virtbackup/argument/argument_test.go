package argument

import (
	"testing"

	"github.com/virtbackup/virtbackup/internal/fail"
)

func TestParseBytes(t *testing.T) {
	for in, want := range map[string]int64{
		"": 0, "1": 1, "800K": 800 << 10, "200M": 200 << 20, "200m": 200 << 20, "1.5G": 3 << 29, "2T": 2 << 40,
	} {
		if got, err := Bytes("it takes bytes", in); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"0", "-1", "fast", "M", "1MB", "NaN", "Inf", "1e30G"} {
		if got, err := Bytes("it takes bytes", in); err == nil {
			t.Errorf("%q: %d and no error", in, got)
		}
	}
}

func TestParseCompression(t *testing.T) {
	for in, want := range map[string]int{"none": 0, "zstd": 3, "zstd:6": 6} {
		if level, err := Compression(in); err != nil || level != want {
			t.Errorf("%q: %d, %v", in, level, err)
		}
	}
	for _, in := range []string{"", "lz4", "zstd:", "zstd:x", "zstd:0", "none:3"} {
		if _, err := Compression(in); err == nil {
			t.Errorf("%q: no error", in)
		}
	}
}

func TestZone(t *testing.T) {
	for _, in := range []string{"UTC", "Europe/Berlin", "America/St_Johns"} {
		if got, err := Zone(in); err != nil || got.String() != in {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "Local", "Mars/Olympus", "Europe", "../../etc/passwd", "/usr/share/zoneinfo/UTC", "UTC "} {
		if got, err := Zone(in); !fail.Is(err, fail.Usage) || fail.HintOf(err) == "" {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
}

func TestPercent(t *testing.T) {
	for s, want := range map[string]int{"1%": 1, "10%": 10, "33": 33, "100%": 100, "0%": 0, "101%": 0, "": 0, "%": 0, "ten": 0, "-5%": 0, "+5%": 0, "0.5%": 0, "10%%": 0} {
		got, err := Percent("--sample", s)
		if got != want || (err == nil) != (want > 0) || err != nil && !fail.Is(err, fail.Usage) {
			t.Errorf("%q: got %d, %v", s, got, err)
		}
	}
}
