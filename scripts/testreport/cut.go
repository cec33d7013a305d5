package main

import (
	"fmt"
	"strings"
)

const (
	// maxBlock is how many lines of one text are shown, such as the output of a
	// command: its beginning, and more of its end, where errors are.
	maxBlock, blockHead = 14, 4
	// maxOfTest is the same for the whole output of one test.
	maxOfTest, testHead = 120, 20
)

// cut shortens the output of a test: first each long text, then the whole.
func cut(output string) string {
	var lines, block []string
	for line := range strings.Lines(output) {
		if position.MatchString(line) || !strings.HasPrefix(line, "        ") {
			lines = append(lines, middleOut(block, maxBlock, blockHead)...)
			block = nil
		}
		block = append(block, short(strings.TrimRight(line, "\n"))+"\n")
	}
	lines = append(lines, middleOut(block, maxBlock, blockHead)...)
	return strings.Join(middleOut(lines, maxOfTest, testHead), "")
}

// middleOut keeps at most most lines, head of them from the beginning.
func middleOut(lines []string, most, head int) []string {
	if len(lines) <= most {
		return lines
	}
	left := fmt.Sprintf("        … %d lines …\n", len(lines)-most)
	return append(append(append([]string{}, lines[:head]...), left), lines[len(lines)-most+head:]...)
}
