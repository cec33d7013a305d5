package main

import (
	"os"
	"regexp"
	"testing"
)

// The newest version of the changelog is the one that is built.
func TestVersionOfTheChangelog(t *testing.T) {
	changes, err := os.ReadFile("../../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	newest := regexp.MustCompile(`(?m)^## (\S+)`).FindSubmatch(changes)
	if newest == nil || string(newest[1]) != number {
		t.Errorf("the changelog begins with %q, this is %s", newest, number)
	}
}
