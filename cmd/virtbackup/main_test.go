package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
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
