// Package qemuimg runs qemu-img on the images of a domain that is shut off: what they are, and
// changes of their bitmaps and sizes.
//
// QEMU marks all persistent bitmaps of a qcow2 image as in use while it has the image open for
// writing, and stores them when it closes the image (qcow2.txt, "in_use"). If it is killed in
// between, all of them are lost. So the commands that write are not ended by a cancelled
// context, nor by a signal of the terminal: they run in a session of their own, to their end.
package qemuimg

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// ErrLocked says that another process has the image open, in a way that excludes this one:
// QEMU's image locking.
var ErrLocked = errors.New("another process has the image open")

// Packages is the hint for an error that is exec.ErrNotFound.
const Packages = "qemu-img and qemu-storage-daemon read the images of a domain that is shut off: Debian has them in qemu-utils and qemu-system-common, Fedora in qemu-img"

// Error is a run of qemu-img that failed.
type Error struct {
	Args []string
	// Said is the first line of its standard error.
	Said   string
	Locked bool
	Err    error
}

// Error names the command, and what it said.
func (e *Error) Error() string {
	if e.Said == "" {
		return fmt.Sprintf("%s: %v", strings.Join(e.Args, " "), e.Err)
	}
	return fmt.Sprintf("%s: %s", strings.Join(e.Args, " "), e.Said)
}

// Unwrap returns the cause, and ErrLocked where it applies.
func (e *Error) Unwrap() []error {
	if e.Locked {
		return []error{e.Err, ErrLocked}
	}
	return []error{e.Err}
}

// run runs qemu-img, and returns its standard output. Cancelling ctx kills it.
func run(ctx context.Context, args ...string) ([]byte, error) {
	return output(ctx, exec.CommandContext(ctx, "qemu-img", args...))
}

// runToEnd runs a command of qemu-img that writes to an image. Nothing of this process ends it.
func runToEnd(args ...string) error {
	cmd := exec.Command("qemu-img", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	_, err := output(context.Background(), cmd)
	return err
}

func output(ctx context.Context, cmd *exec.Cmd) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &stdout, &stderr, time.Second
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, failed(cmd.Args, stderr.String(), err)
	}
	return stdout.Bytes(), nil
}

// failed makes the error of a run. The text of QEMU's image locking (block/file-posix.c,
// "Failed to get \"%s\" lock", "Is another process using the image") is not translated.
func failed(args []string, stderr string, err error) error {
	said, _, _ := strings.Cut(strings.TrimSpace(stderr), "\n")
	said = strings.TrimPrefix(said, "qemu-img: ")
	return &Error{Args: args, Said: said, Err: err, Locked: IsLockText(stderr)}
}

// IsLockText says whether a message of QEMU's is about an image that another process has open.
func IsLockText(message string) bool {
	return strings.Contains(message, "Failed to get") && strings.Contains(message, "lock")
}

// File describes a file or block device on this host to QEMU, as the "file" of an image.
func File(path string) (map[string]any, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	driver := "file"
	if info.Mode()&os.ModeDevice != 0 {
		driver = "host_device"
	}
	return map[string]any{"driver": driver, "filename": path}, nil
}

// alone names an image without its backing file, so that only this file is opened, whatever
// its header and its name say.
func alone(path, format string) (string, error) {
	file, err := File(path)
	if err != nil {
		return "", err
	}
	image := map[string]any{"driver": format, "file": file}
	if format == "qcow2" {
		image["backing"] = nil
	}
	text, err := json.Marshal(image)
	return "json:" + string(text), err
}
