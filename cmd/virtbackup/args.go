package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// arrange puts a command line into the order that urfave/cli v2 needs: global
// options, command, its options, arguments. People write options where they like:
//
//	virtbackup inc vm1 --since check2 --repo /backup
//	virtbackup --repo=/backup inc --since=check2 -- vm1
//
// args begins with the program's name. Unknown options stay with the command,
// which then complains about them. An option without its value is a fail.Usage
// here: put before the arguments, it would take one of them.
func arrange(app *cli.App, args []string) ([]string, error) {
	if len(args) == 0 {
		return args, nil
	}
	a := arrangement{app: app, commands: app.Commands}
	for words := args[1:]; len(words) > 0; {
		n, err := a.take(words)
		if err != nil {
			return nil, err
		}
		words = words[n:]
	}
	return slices.Concat(args[:1], a.line()), nil
}

// arrangement is a command line taken apart.
type arrangement struct {
	app      *cli.App
	commands []*cli.Command // any of which may come next
	flags    []cli.Flag     // of the command so far
	help     bool           // it asks for help

	global, path, local, rest []string // path: the command and its subcommand
}

// line puts it together again.
func (a *arrangement) line() []string {
	switch {
	case a.help && len(a.path)+len(a.rest) == 0:
		return []string{"--help"}
	case a.help && len(a.path) > 0: // whatever else is wanted
		return append(a.path, "--help")
	case len(a.rest) == 0:
		return slices.Concat(a.global, a.path, a.local)
	}
	return slices.Concat(a.global, a.path, a.local, []string{"--"}, a.rest)
}

// take puts the first of the words in its place, and returns how many it took.
func (a *arrangement) take(words []string) (int, error) {
	word := words[0]
	switch {
	case word == "--":
		a.rest = append(a.rest, words[1:]...)
		return len(words), nil
	case slices.Contains([]string{"-h", "-help", "--help"}, word), word == "help" && len(a.path)+len(a.rest) == 0:
		a.help = true // people try "help inc", too
	case len(word) > 1 && word[0] == '-':
		return a.option(words)
	default:
		a.argument(word)
	}
	return 1, nil
}

// argument takes a command's name where one may stand, or an argument.
func (a *arrangement) argument(word string) {
	command := find(a.commands, word)
	if command == nil || len(a.rest) > 0 {
		a.rest = append(a.rest, word)
		return
	}
	a.path = append(a.path, command.Name)
	a.commands, a.flags = command.Subcommands, slices.Concat(a.flags, command.Flags)
}

// option takes an option and its value.
func (a *arrangement) option(words []string) (int, error) {
	n := 1
	flag, isGlobal := lookup(words[0], a.flags, a.app.Flags)
	if takesValue(flag) && !strings.Contains(words[0], "=") {
		n = 2
	}
	if len(words) < n {
		hint := strings.Join(append([]string{a.app.Name}, a.path...), " ") + " --help"
		return 0, fail.Errorf(fail.Usage, hint, "option %s needs a value", words[0])
	}
	// Before the command there are only global ones, like --version.
	if isGlobal || len(a.path) == 0 {
		a.global = append(a.global, words[:n]...)
	} else {
		a.local = append(a.local, words[:n]...)
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

// lookup finds an option by how it is written; a command's own come first.
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
