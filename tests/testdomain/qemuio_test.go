package testdomain

import "testing"

func TestJudge(t *testing.T) {
	const wrote = "wrote 512/512 bytes at offset 0\n512 bytes, 1 ops; 00.00 sec (1 MiB/sec and 1 ops/sec)\n"
	write, two := []string{"write -P 1 0 512", "flush"}, []string{"write 0 512", "discard 0 512"}
	for _, c := range []struct {
		name     string
		commands []string
		out      string
		good     bool
	}{
		{"done", write, wrote, true},
		{"a client was killed", write, "2026-11-20T19:12:43.359364Z qemu-system-x86_64: Disconnect client, due to: Failed to send reply\n" +
			wrote + "2026-11-20T19:12:43.359364Z qemu-system-x86_64: write failed: Unable to write to socket: Broken pipe\n", true},
		{"nothing", write, "", false},
		{"in part", write, "wrote 100/512 bytes at offset 0\n", false},
		{"one of two", two, wrote, false},
		{"refused", write, "write failed: No space left on device\n", false},
		{"done, and then an error", write, wrote + "flush failed: Input/output error\n", false},
	} {
		if err := judge(c.commands, c.out); (err == nil) != c.good {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
