package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// What needs neither libvirt nor a repository, from the command line to the exit
// code.
func TestRun(t *testing.T) {
	t.Setenv("VIRTBACKUP_REPO", t.TempDir())
	tests := []struct {
		line           string
		code           int
		stdout, stderr string // "" means nothing
	}{
		{"", 0, "start a chain", ""},
		{"--help", 0, "--repo DIR", ""},
		{"help", 0, "EXIT CODES", ""},
		{"help inc", 0, "virtbackup inc vm1 --since check2", ""},
		{"inc vm1 --help", 0, "virtbackup inc [options] DOMAIN", ""},
		{"checkpoint", 2, "", "error: virtbackup checkpoint needs one of the commands list, size and delete\nhint: virtbackup checkpoint --help\n"},
		{"checkpoint --help", 0, "delete a checkpoint", ""},
		{"checkpoint delete -h", 0, "virtbackup checkpoint delete vm1 check2", ""},
		{"help release", 0, "virtbackup release vm1@check3 --points", ""},
		{"forget", 2, "", "error: virtbackup forget takes the arguments DOMAIN[@POINT] | DOMAIN --foreign [CHECKPOINT...]: none was given\n"}, // as it was called once
		{"--version", 0, "virtbackup version " + number + "\n", ""},
		{"nonsense", 2, "", "error: there is no command \"nonsense\"\nhint: virtbackup --help\n"},
		{"help nonsense", 2, "", "error: there is no command \"nonsense\"\n"},
		{"checkpoint nonsense", 2, "", "error: virtbackup checkpoint has no command \"nonsense\"\n"},
		{"inc", 2, "", "error: virtbackup inc takes the arguments DOMAIN: none was given\nhint: virtbackup inc --help\n"},
		{"inc vm1 vm2", 2, "", "DOMAIN: not \"vm1 vm2\"\n"},
		{"inc vm1 --nope", 2, "", "error: virtbackup inc: there is no option --nope\nhint: virtbackup inc --help\n"},
		{"inc vm1 --since", 2, "", "error: option --since needs a value\nhint: virtbackup inc --help\n"},
		{"full vm1 --wait long", 2, "", "hint: virtbackup full --help\n"},
		{"checkpoint delete vm1 --forse", 2, "", "there is no option --forse\nhint: virtbackup checkpoint delete --help\n"},
		{"help init", 0, "virtbackup init [options] [DIR]", ""},
		{"init a b", 2, "", "error: virtbackup init takes the arguments [DIR]: not \"a b\"\nhint: virtbackup init --help\n"},
		{"inc vm1 --max-chain many", 2, "", "hint: virtbackup inc --help\n"},
		{"list", 2, "", "not a virtbackup repository: it holds no repository.json\nhint: "},
		{"list --json", 2, "{\n  \"error\": \"open repository ", "hint: "},
		{"inc vm1 --nope --json", 2, "\"hint\": \"virtbackup inc --help\",\n  \"exit_code\": 2\n}\n", "there is no option --nope"},
		{"inc --json --since", 2, "\"exit_code\": 2", "option --since needs a value"},
		{"list --json=true", 2, "{\n  \"error\": \"open repository ", "hint: "},
		{"list -json=1", 2, "{\n  \"error\": \"open repository ", "hint: "},
		{"list --json=false", 2, "", "hint: "},
		{"list --json --json=false", 2, "", "hint: "},
		{"list -- --json", 2, "", "hint: "},
		{"show vm1@ --json", 2, "\"exit_code\": 2", "not a virtbackup repository"},
		{"full vm1 --connect qemu+ssh://elsewhere/system", 2, "", "hint: run virtbackup on the host"},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			args := append([]string{"virtbackup"}, strings.Fields(tt.line)...)
			if code := run(context.Background(), args, &stdout, &stderr); code != tt.code {
				t.Errorf("exit %d, want %d", code, tt.code)
			}
			for _, o := range []struct{ got, want string }{{stdout.String(), tt.stdout}, {stderr.String(), tt.stderr}} {
				if !strings.Contains(o.got, o.want) || o.want == "" && o.got != "" {
					t.Errorf("got %q, want %q", o.got, o.want)
				}
			}
			if strings.Contains(stdout.String(), "default: false") {
				t.Error("the help has switches with defaults")
			}
		})
	}
}

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
