package main

import (
	"fmt"
	"strings"
)

const (
	// maxBlock is how many lines of one text are shown, such as what a command
	// printed: its beginning, and more of its end, where errors are.
	maxBlock, blockHead = 14, 4
	// maxOfTest is the same for all that one test said.
	maxOfTest, testHead = 120, 20
)

// cut shortens what a test said: long texts of it, then all of it.
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

// middleOut leaves at most so many lines, head of them from the beginning.
func middleOut(lines []string, most, head int) []string {
	if len(lines) <= most {
		return lines
	}
	left := fmt.Sprintf("        … %d lines …\n", len(lines)-most)
	return append(append(append([]string{}, lines[:head]...), left), lines[len(lines)-most+head:]...)
}
