package main

import (
	"regexp"
	"strings"
)

const (
	maxComplaints = 8   // of one test
	maxLines      = 4   // of one complaint
	maxLength     = 300 // bytes of one line
)

// position begins a message of a test: "    input_test.go:207: it does not say …".
// Further lines of the same text are indented deeper.
var position = regexp.MustCompile(`^ {4,}[a-z_]+\.go:\d+: (.*)`)

// complaints returns the last messages of a failed test, shortened, without the
// commands that it ran and the logs that it showed.
func complaints(output string) []string {
	var all []string
	lines := 0
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, "\n")
		m := position.FindStringSubmatch(line)
		switch {
		case m != nil && (strings.HasPrefix(m[1], "$ ") || strings.HasPrefix(m[1], "the end of ")):
			lines = maxLines
		case m != nil:
			all, lines = append(all, short(line)), 1
		case strings.HasPrefix(line, "        ") && lines > 0 && lines < maxLines:
			all[len(all)-1] += "\n" + short(line)
			lines++
		}
	}
	return all[max(0, len(all)-maxComplaints):]
}

func short(line string) string {
	if len(line) > maxLength {
		return strings.ToValidUTF8(line[:maxLength], "") + " …"
	}
	return line
}
