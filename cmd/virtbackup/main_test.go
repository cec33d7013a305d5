package main

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// Every command's help has an example and tells of the global options.
func TestEveryHelp(t *testing.T) {
	for _, c := range commands() {
		for _, sub := range append(c.Subcommands, c) {
			if len(sub.Subcommands) == 0 && (sub.Description == "" || sub.ArgsUsage == "") {
				t.Errorf("%s has no example or no arguments", sub.Name)
			}
		}
	}
}

// It fits a terminal of 80 columns; examples are not wrapped.
func TestHelpFits(t *testing.T) {
	for _, c := range commands() {
		for _, sub := range append(c.Subcommands, c) {
			args := []string{"virtbackup", c.Name, "--help"}
			if sub != c {
				args = slices.Insert(args, 2, sub.Name)
			}
			var stdout, stderr bytes.Buffer
			if code := run(context.Background(), args, &stdout, &stderr); code != exitDone || stdout.Len() == 0 {
				t.Errorf("%v: exit %d, %s", args, code, stderr.String())
			}
			for line := range strings.Lines(stdout.String()) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
					t.Errorf("%v: %d columns: %s", args, n, line)
				}
			}
		}
	}
}

// panicky is standard output that makes the program panic.
type panicky struct{}

func (panicky) Write([]byte) (int, error) { panic("boom") }

func TestRunAfterAPanic(t *testing.T) {
	var stderr bytes.Buffer
	code := run(context.Background(), []string{"virtbackup", "--version"}, panicky{}, &stderr)
	if code != exitBug || !strings.HasPrefix(stderr.String(), "error: internal error: boom\nhint: this is a bug, please report it") ||
		!strings.Contains(stderr.String(), "main_test.go") {
		t.Errorf("exit %d, %s", code, stderr.String())
	}
}
