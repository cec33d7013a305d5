package bytesize

import "testing"

func TestShortAndText(t *testing.T) {
	for n, want := range map[int64][2]string{
		-5: {"-5 B", "-5 bytes"}, 0: {"0 B", "0 bytes"}, 1023: {"1023 B", "1023 bytes"},
		1024: {"1.0 KiB", "1.0 KiB"}, 1536: {"1.5 KiB", "1.5 KiB"}, 1<<20 - 1: {"1.0 MiB", "1.0 MiB"}, 1 << 20: {"1.0 MiB", "1.0 MiB"},
		1 << 30: {"1.0 GiB", "1.0 GiB"}, 1 << 40: {"1.0 TiB", "1.0 TiB"}, 1 << 50: {"1.0 PiB", "1.0 PiB"}, 1 << 60: {"1024.0 PiB", "1024.0 PiB"},
	} {
		if got := [2]string{Short(n), Text(n)}; got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
