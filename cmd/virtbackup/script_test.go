package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// oldRepositories are what earlier versions wrote (tests/chains/oldrepositories_test.go).
const oldRepositories = "../../tests/chains/testdata/repositories"

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"virtbackup": main})
}

// The scripts in testdata/script show what the command line does, one behaviour each: what
// a person types, and all that the program answers. They need no daemon: libvirt's test
// driver (test:///default) is in the process. After a change that is meant,
//
//	VIRTBACKUP_UPDATE=1 go test ./cmd/virtbackup
//
// writes the new answers into them, but for those that cmpenv compares. Besides the commands of testscript there are
//
//	exits CODE virtbackup ARGUMENTS...
//	repository NAME     unpacks one that an earlier version wrote, as repo
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       os.Getenv("VIRTBACKUP_UPDATE") != "",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("COLUMNS", "80")
			env.Setenv("TZ", "UTC")
			env.Setenv("LIBVIRT_DEFAULT_URI", "test:///default")
			env.Setenv("VIRTBACKUP_REPO", "repo")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"exits": exits, "repository": unpack},
	})
}

// exits runs a program, which must end with that code; stdout and stderr show what it said.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARGUMENT...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	err = ts.Exec(args[1], args[2:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("it exits with %d, want %d", code, want)
	}
}

// unpack unpacks an archive of oldRepositories.
func unpack(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: repository NAME")
	}
	ts.Check(unpackInto(ts.MkAbs("."), args[0]))
}

// unpackInto unpacks the repository in an archive as dir/repo.
func unpackInto(dir, name string) error {
	f, err := os.Open(filepath.Join(oldRepositories, name+".tar.gz"))
	if err != nil {
		return err
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for files := tar.NewReader(unzipped); ; {
		h, err := files.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		path := filepath.Join(dir, h.Name)
		if h.Typeflag == tar.TypeDir {
			if err := os.MkdirAll(path, 0o700); err != nil {
				return err
			}
			continue
		}
		data, err := io.ReadAll(files)
		if err == nil {
			err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, data, 0o600))
		}
		if err != nil {
			return err
		}
	}
}
