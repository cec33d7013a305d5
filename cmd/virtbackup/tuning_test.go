package main

import (
	"testing"

	"github.com/virtbackup/virtbackup/qcow2"
)

func TestParseBytes(t *testing.T) {
	for in, want := range map[string]int64{
		"": 0, "1": 1, "800K": 800 << 10, "200M": 200 << 20, "200m": 200 << 20, "1.5G": 3 << 29, "2T": 2 << 40,
	} {
		if got, err := parseBytes("it takes bytes", in); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"0", "-1", "fast", "M", "1MB", "NaN", "Inf", "1e30G"} {
		if got, err := parseBytes("it takes bytes", in); err == nil {
			t.Errorf("%q: %d and no error", in, got)
		}
	}
}

func TestParseCompression(t *testing.T) {
	for in, want := range map[string]struct {
		how   qcow2.Compression
		level int
	}{"none": {qcow2.None, 0}, "zstd": {qcow2.Zstd, 0}, "zstd:6": {qcow2.Zstd, 6}} {
		if how, level, err := parseCompression(in); err != nil || how != want.how || level != want.level {
			t.Errorf("%q: %v, %d, %v", in, how, level, err)
		}
	}
	for _, in := range []string{"", "lz4", "zstd:", "zstd:x", "zstd:0", "none:3"} {
		if _, _, err := parseCompression(in); err == nil {
			t.Errorf("%q: no error", in)
		}
	}
}
