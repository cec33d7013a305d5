package commandline

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// Arrange puts a command line into the order that urfave/cli v2 needs: global options,
// command, its options, arguments. On the command line, options may stand anywhere:
//
//	virtbackup inc vm1 --since check2 --repo /backup
//	virtbackup --repo=/backup inc --since=check2 -- vm1
//
// args begins with the program's name and is not changed. Unknown options stay with the
// command, which then refuses them. An option without its value is an error of fail.Usage
// here: once it stands before the arguments, it would take one of them as its value.
func Arrange(app *cli.App, args []string) ([]string, error) {
	if len(args) == 0 {
		return args, nil
	}
	l := commandLine{app: app, commands: app.Commands}
	for words := args[1:]; len(words) > 0; {
		n, err := l.take(words)
		if err != nil {
			return nil, err
		}
		words = words[n:]
	}
	return slices.Concat(args[:1], l.line()), nil
}

// commandLine is a command line in parts.
type commandLine struct {
	app      *cli.App
	commands []*cli.Command // one of them may come next
	flags    []cli.Flag     // of the command so far
	help     bool           // help is asked for

	global, path, local, rest []string // path: the command and its subcommand
}

// line joins the parts.
func (l *commandLine) line() []string {
	switch {
	case l.help && len(l.path)+len(l.rest) == 0:
		return []string{"--help"}
	case l.help && len(l.path) > 0: // whatever else is there
		return append(l.path, "--help")
	case len(l.rest) == 0:
		return slices.Concat(l.global, l.path, l.local)
	}
	return slices.Concat(l.global, l.path, l.local, []string{"--"}, l.rest)
}

// take adds the first of the words to its part and returns the number of words taken.
func (l *commandLine) take(words []string) (int, error) {
	word := words[0]
	switch {
	case word == "--":
		l.rest = append(l.rest, words[1:]...)
		return len(words), nil
	case slices.Contains([]string{"-h", "-help", "--help"}, word), word == "help" && len(l.path)+len(l.rest) == 0:
		l.help = true // people try "help inc", too
	case len(word) > 1 && word[0] == '-':
		return l.option(words)
	default:
		l.argument(word)
	}
	return 1, nil
}

// argument takes the name of a command, if one may stand here, or an argument.
func (l *commandLine) argument(word string) {
	command := find(l.commands, word)
	if command == nil || len(l.rest) > 0 {
		l.rest = append(l.rest, word)
		return
	}
	l.path = append(l.path, command.Name)
	l.commands, l.flags = command.Subcommands, slices.Concat(l.flags, command.Flags)
}

// option takes an option and its value.
func (l *commandLine) option(words []string) (int, error) {
	n := 1
	flag, isGlobal := lookup(words[0], l.flags, l.app.Flags)
	if takesValue(flag) && !strings.Contains(words[0], "=") {
		n = 2
	}
	if len(words) < n {
		hint := strings.Join(append([]string{l.app.Name}, l.path...), " ") + " --help"
		return 0, fail.Errorf(fail.Usage, hint, "option %s needs a value", words[0])
	}
	// Options before the command are global, like --version.
	if isGlobal || len(l.path) == 0 {
		l.global = append(l.global, words[:n]...)
	} else {
		l.local = append(l.local, words[:n]...)
	}
	return n, nil
}

func find(commands []*cli.Command, word string) *cli.Command {
	for _, c := range commands {
		if c.HasName(word) {
			return c
		}
	}
	return nil
}

// lookup finds an option as it is written. Those of the command come first.
func lookup(word string, local, global []cli.Flag) (flag cli.Flag, isGlobal bool) {
	name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
	named := func(f cli.Flag) bool { return slices.Contains(f.Names(), name) }
	if i := slices.IndexFunc(local, named); i >= 0 {
		return local[i], false
	}
	if i := slices.IndexFunc(global, named); i >= 0 {
		return global[i], true
	}
	return nil, false
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}
