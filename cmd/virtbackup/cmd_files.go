package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/cmd/virtbackup/view"
	"github.com/virtbackup/virtbackup/guestfs"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/terminal"
	"github.com/virtbackup/virtbackup/repository"
)

func filesCommand() *cli.Command {
	return &cli.Command{
		Name:      "files",
		Usage:     "list, print and copy files of a point, without restoring it",
		ArgsUsage: "DOMAIN[@POINT] VERB [PATH...]",
		Description: "virtbackup files vm1 ls /etc\n" +
			"virtbackup files vm1@check2 cat /etc/fstab\n" +
			"virtbackup files vm1 cp /etc /home/anna/letter.odt /srv/back\n" +
			"virtbackup files vm1 find / | grep letter\n" +
			"virtbackup files vm1 changed check1 check2 /etc\n" +
			"virtbackup files vm1 filesystems\n" +
			"virtbackup files vm1 ls vdb1:/ vdb1:/data\n\n" +
			"VERB is ls, find, cat, cp, changed or filesystems. libguestfs reads the files, in a small\n" +
			"virtual machine: what the guest wrote never reaches the kernel of this host. Paths are those\n" +
			"of the operating system on the disks. filesystems names what else there is:\n" +
			"[FILESYSTEM:]/PATH, such as vdb1:/data or vg/home:/anna.\n" +
			"cp copies into a directory, and keeps modes, times, links, and as root the owners (numbers).\n" +
			"Nothing appears there before all is copied. Set-user-ID bits and capabilities stay away (exit 3)\n" +
			"if other users can enter the directory; one that cp makes is yours alone. changed compares\n" +
			"types, modes, owners, sizes and times. On a terminal, and in lists, control characters are\n" +
			"replaced; --json and -0 are exact.",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "disk", Usage: "use only disk `TARGET` (vda); may be repeated"},
			boolFlag("force", "cp: replace what exists, directories as a whole"),
			&cli.BoolFlag{Name: "null", Aliases: []string{"0"}, Usage: "find: end each path with a zero byte, as xargs -0 takes it", DisableDefaultText: true},
		},
		Action: filesAction,
	}
}

// filesTask is what a command line of files asks for.
type filesTask struct {
	c     *cli.Context
	repo  *repository.Repository
	r     guestfs.Request
	paths []string
}

// filesVerb is one of the things that files does.
type filesVerb struct {
	do          func(filesTask) error
	takes       string // the arguments
	least, most int    // how many they are
	or          string
	json, null  bool // whether it has these forms
	force       bool
}

const anyNumber = 1 << 30

func filesVerbs() map[string]filesVerb {
	return map[string]filesVerb{
		"ls":          {do: filesTask.list, takes: "[PATH...]", most: anyNumber, or: "/", json: true},
		"cat":         {do: filesTask.cat, takes: "PATH...", least: 1, most: anyNumber},
		"cp":          {do: filesTask.copy, takes: "PATH... DIRECTORY", least: 2, most: anyNumber, json: true, force: true},
		"find":        {do: filesTask.find, takes: "[PATH...]", most: anyNumber, or: "/", json: true, null: true},
		"changed":     {do: filesTask.changed, takes: "POINT POINT [PATH]", least: 2, most: 3, json: true},
		"filesystems": {do: filesTask.filesystems, takes: "no arguments", json: true},
	}
}

func filesAction(c *cli.Context) error {
	if c.Args().Len() < 2 {
		return argumentError(c)
	}
	name := c.Args().Get(1)
	verb, ok := filesVerbs()[name]
	paths := c.Args().Slice()[2:]
	help := c.Command.HelpName + " --help"
	switch {
	case !ok:
		return fail.Errorf(fail.Usage, help, "files does ls, cat, cp, find, changed and filesystems, not %q", name)
	case len(paths) < verb.least || len(paths) > verb.most:
		return fail.Errorf(fail.Usage, help, "files %s takes %s: %s", name, verb.takes, given(paths))
	case slices.Contains(paths, ""):
		return fail.Errorf(fail.Usage, help, "files %s: a path is empty", name)
	case c.Bool("json") && !verb.json, c.Bool("null") && !verb.null, c.Bool("force") && !verb.force:
		return fail.Errorf(fail.Usage, help, "files %s takes no such option: --json is for all but cat, --null for find, --force for cp", name)
	case c.Bool("json") && c.Bool("null"):
		return fail.Errorf(fail.Usage, "leave out one of them", "--json and --null exclude each other")
	}
	if len(paths) == 0 && verb.or != "" {
		paths = []string{verb.or}
	}
	repo, domain, at, err := openWithPoint(c, c.Args().First())
	if err != nil {
		return err
	}
	return verb.do(filesTask{c, repo, guestfs.Request{Domain: domain, At: at, Disks: c.StringSlice("disk"), Log: logger(c, c.App.ErrWriter)}, paths})
}

// use calls do with a session.
func (t filesTask) use(do func(*guestfs.Session) error) error {
	return guestfs.Use(t.c.Context, t.repo, t.r, do)
}

func (t filesTask) list() error {
	lists := make([]view.FileList, len(t.paths))
	err := t.use(func(s *guestfs.Session) error {
		for i, p := range t.paths {
			lists[i].Path = p
			if err := s.List(p, func(f guestfs.File) error {
				lists[i].Files = append(lists[i].Files, f)
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return printAnswer(t.c, view.AllFiles(lists), func(w io.Writer) error { return view.FileLists(w, lists, t.c.Bool("quiet")) })
}

func (t filesTask) cat() error {
	w := terminal.Exact(t.c.App.Writer)
	return t.use(func(s *guestfs.Session) error {
		for _, p := range t.paths {
			if err := s.Cat(p, w); err != nil {
				return err
			}
		}
		return nil
	})
}

func (t filesTask) copy() error {
	last := len(t.paths) - 1
	copying, err := guestfs.NewCopying(t.paths[:last], t.paths[last], t.c.Bool("force"))
	if err != nil {
		return err
	}
	var copied guestfs.Copied
	err = t.use(func(s *guestfs.Session) (err error) {
		copied, err = s.Copy(copying)
		return err
	})
	if err != nil {
		return err
	}
	for _, left := range copied.Left {
		t.r.Log.Warn("not copied: " + left)
	}
	printed := printDone(t.c, copied, func(w io.Writer) error { return view.Copied(w, copied) })
	return warnedIf(len(copied.Left) > 0 || printed != nil)
}

func (t filesTask) find() error {
	found := []view.FoundFile{}
	print := func(p string) error { return view.FoundPath(t.c.App.Writer, p) }
	switch {
	case t.c.Bool("json"):
		print = func(p string) error {
			found = append(found, view.FoundFile{Path: p, PathBase64: guestfs.Exact(p)})
			return nil
		}
	case t.c.Bool("null"):
		w := terminal.Exact(t.c.App.Writer)
		print = func(p string) error {
			_, err := io.WriteString(w, p+"\x00")
			return err
		}
	}
	err := t.use(func(s *guestfs.Session) error {
		for _, p := range t.paths {
			if err := s.Find(p, print); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && t.c.Bool("json") {
		err = printJSON(t.c.App.Writer, found)
	}
	return err
}

// changed compares two points, one after the other: two copies of one disk have the same names of
// volume groups and file systems, and cannot be in one appliance.
func (t filesTask) changed() error {
	if t.r.At != "" {
		return fail.Errorf(fail.Usage, "virtbackup files "+t.r.Domain+" changed POINT POINT [PATH]", "files changed takes both points after the domain, not %s@%s", t.r.Domain, t.r.At)
	}
	path := "/"
	if len(t.paths) == 3 {
		path = t.paths[2]
	}
	var (
		changed = view.Changed{Domain: t.r.Domain, Path: path}
		trees   [2]guestfs.Tree
		points  [2]string
	)
	for i := range trees {
		t.r.At = t.paths[i]
		if err := t.use(func(s *guestfs.Session) (err error) {
			points[i] = s.Point
			trees[i], err = s.Tree(path)
			return err
		}); err != nil {
			return fmt.Errorf("%s: %w", t.paths[i], err)
		}
	}
	changed.From, changed.To, changed.Changes = points[0], points[1], guestfs.Compare(trees[0], trees[1])
	return printAnswer(t.c, changed, func(w io.Writer) error { return changed.Text(w, t.c.Bool("quiet")) })
}

func (t filesTask) filesystems() error {
	found := []guestfs.Filesystem{}
	if err := t.use(func(s *guestfs.Session) error {
		filesystems, err := s.Filesystems()
		found = append(found, filesystems...)
		return err
	}); err != nil {
		return err
	}
	return printAnswer(t.c, found, func(w io.Writer) error { return view.Filesystems(w, found, t.c.Bool("quiet")) })
}
