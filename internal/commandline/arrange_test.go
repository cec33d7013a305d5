package commandline

import (
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// testApp has commands like those of virtbackup.
func testApp() *cli.App {
	value := func(name string) cli.Flag { return &cli.StringFlag{Name: name} }
	boolean := func(name string) cli.Flag { return &cli.BoolFlag{Name: name} }
	return &cli.App{
		Name:  "virtbackup",
		Flags: []cli.Flag{value("repo"), value("connect"), boolean("json"), boolean("quiet"), boolean("verbose")},
		Commands: []*cli.Command{
			{Name: "full", Flags: []cli.Flag{value("disk")}}, {Name: "inc", Flags: []cli.Flag{value("since")}},
			{Name: "restore", Flags: []cli.Flag{value("to")}}, {Name: "list"}, {Name: "auto"},
			{Name: "checkpoint", Subcommands: []*cli.Command{{Name: "list"}, {Name: "delete", Flags: []cli.Flag{boolean("force")}}}},
		},
	}
}

func TestArrange(t *testing.T) {
	tests := []struct{ name, line, want string }{
		{"nothing", "", ""},
		{"in order", "--repo /r inc --since check2 vm1", "--repo /r inc --since check2 -- vm1"},
		{"option behind", "inc vm1 --since check2", "inc --since check2 -- vm1"},
		{"option between", "checkpoint delete vm1 --force check2", "checkpoint delete --force -- vm1 check2"},
		{"option between command and subcommand", "checkpoint --repo /r list vm1", "--repo /r checkpoint list -- vm1"},
		{"global behind", "inc vm1 --repo /r --json", "--repo /r --json inc -- vm1"},
		{"global before and behind", "--json inc vm1 --quiet", "--json --quiet inc -- vm1"},
		{"equals sign", "inc vm1 --since=check2 --repo=/r", "--repo=/r inc --since=check2 -- vm1"},
		{"equals sign in a value", "restore vm1 --to a=b", "restore --to a=b -- vm1"},
		{"one dash", "inc vm1 -since check2", "inc -since check2 -- vm1"},
		{"option of no value before the domain", "--verbose list vm1", "--verbose list -- vm1"},
		{"switch before the domain", "checkpoint delete --force vm1 check1", "checkpoint delete --force -- vm1 check1"},
		{"switch with a value", "list --json=false vm1", "--json=false list -- vm1"},
		{"two dashes", "full --disk vda -- -vm1 --disk", "full --disk vda -- -vm1 --disk"},
		{"two dashes first", "-- full", "-- full"},
		{"value that begins with a dash", "restore vm1 --to -dir", "restore --to -dir -- vm1"},
		{"value like two dashes", "restore --to -- vm1", "restore --to -- -- vm1"},
		{"value like a command", "full --disk list vm1", "full --disk list -- vm1"},
		{"single dash is an argument", "list -", "list -- -"},
		{"unknown option", "full vm1 --nope", "full --nope -- vm1"},
		{"unknown option takes nothing", "full --nope vm1", "full --nope -- vm1"},
		{"unknown option before the command", "--nope full vm1", "--nope full -- vm1"},
		{"option of another command", "list --since check1", "list --since -- check1"},
		{"unknown command", "nonsense list", "-- nonsense list"},
		{"domain named like a command", "full list", "full -- list"},
		{"domain named like its own command", "full full", "full -- full"},
		{"domain named like a subcommand", "checkpoint list list", "checkpoint list -- list"},
		{"checkpoint named like a subcommand", "checkpoint delete vm1 list", "checkpoint delete -- vm1 list"},
		{"domain named help", "list help", "list -- help"},
		{"repeated", "full --disk vda vm1 --disk vdb", "full --disk vda --disk vdb -- vm1"},
		{"several domains", "auto vm1 --quiet vm2", "--quiet auto -- vm1 vm2"},
		{"help", "--help", "--help"},
		{"help of a command", "inc --help", "inc --help"},
		{"help behind all", "inc vm1 --since check1 -h", "inc --help"},
		{"help of a subcommand", "checkpoint delete --help", "checkpoint delete --help"},
		{"help as a word", "help", "--help"},
		{"help as a word before a command", "help checkpoint delete", "checkpoint delete --help"},
		{"help of what is no command", "help nonsense", "-- nonsense"},
		{"version", "--version", "--version"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			words := append([]string{"virtbackup"}, strings.Fields(tt.line)...)
			got, err := Arrange(testApp(), words)
			if err != nil {
				t.Fatal(err)
			}
			if line := strings.Join(got[1:], " "); line != tt.want {
				t.Errorf("%s\ngot  %s\nwant %s", tt.line, line, tt.want)
			}
		})
	}
}

// Without its value an option must not take what stands behind it once arranged.
func TestArrangeMissingValue(t *testing.T) {
	for _, line := range []string{"inc vm1 --since", "list --repo", "--repo", "checkpoint list --connect"} {
		_, err := Arrange(testApp(), append([]string{"virtbackup"}, strings.Fields(line)...))
		if !fail.Is(err, fail.Usage) || !strings.Contains(fail.HintOf(err), "--help") {
			t.Errorf("%s: got %v, want a usage error", line, err)
		}
	}
}

func TestArrangeKeepsItsInput(t *testing.T) {
	words := []string{"virtbackup", "inc", "vm1", "--since", "check1"}
	if _, err := Arrange(testApp(), words); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(words, " "); got != "virtbackup inc vm1 --since check1" {
		t.Errorf("the command line has become %s", got)
	}
	if got, err := Arrange(testApp(), nil); err != nil || len(got) != 0 {
		t.Errorf("no words: got %q, %v", got, err)
	}
}
