package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/tests/testfs"
)

// oddDisk is of a size that no unit of a copy divides, with data at its start and its end, and
// what an increment has changed.
func oddDisk(t *testing.T) (*repository.Repository, []byte) {
	t.Helper()
	const size = 24<<20 + 3*512
	repo, content := chainOf(t, 2, size, func(link int) []int64 {
		return []int64{0, cluster, 15 * cluster, 16 * cluster, int64(40+10*link) * cluster, size / cluster * cluster}
	})
	return repo, content
}

// request is that of disk vda to an output.
func request(output string) Request {
	return Request{Domain: "vm1", Disks: []string{"vda"}, Output: output}
}

func TestOutputToAFile(t *testing.T) {
	repo, content := oddDisk(t)
	for _, format := range []Format{"", QCOW2, Raw} {
		r := request(filepath.Join(t.TempDir(), "disk.img"))
		r.Format = format
		result, err := Output(t.Context(), repo, r)
		must(t, err)
		want := format
		if want == "" {
			want = QCOW2
		}
		if result.Format != want || result.Output != r.Output || result.Image != r.Output || result.Target != "vda" || result.Point != "check2" {
			t.Errorf("%q: got %+v", format, result)
		}
		wantSame(t, r.Output, want, fileOf(t, content))
		if info, err := os.Stat(r.Output); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%q: %v, %v", format, info.Mode(), err)
		}
		if left, _ := os.ReadDir(filepath.Dir(r.Output)); len(left) != 1 {
			t.Errorf("%q: left: %v", format, left)
		}
	}
}

// What a killed restore has left of a file is removed, and nothing else.
func TestOutputToAFileAgain(t *testing.T) {
	repo, content := oddDisk(t)
	for name, wants := range map[string]bool{"disk.img.partial": true, "disk.img": true, "other": true} {
		dir := t.TempDir()
		leave(t, dir, filepath.Join(dir, ".disk.img"+markerName), marker{Names: []string{"disk.img", "disk.img.partial"}}, name)
		r := request(filepath.Join(dir, "disk.img"))
		if _, err := Output(t.Context(), repo, r); err == nil != wants {
			t.Errorf("%s: %v", name, err)
			continue
		}
		wantSame(t, r.Output, QCOW2, fileOf(t, content))
		if _, err := os.Stat(filepath.Join(dir, "other")); name == "other" && err != nil {
			t.Error(err)
		}
	}
}

// What cannot be an output is refused with a hint, and is as it was.
func TestOutputRefuses(t *testing.T) {
	repo, _ := oddDisk(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.WriteFile(at("file"), []byte("theirs"), 0o600))
	must(t, os.WriteFile(at("half.partial"), []byte("theirs"), 0o600))
	must(t, os.Mkdir(at("dir"), 0o700))
	must(t, unix.Mkfifo(at("pipe"), 0o600))
	must(t, os.Symlink(at("file"), at("link")))
	must(t, os.Symlink(repo.Dir(), at("repo")))
	small, readOnly := testfs.Loop(t, 24<<20, 0xee), testfs.Loop(t, 32<<20, 0xee, "--read-only")
	device := testfs.Loop(t, 32<<20, 0xee)
	qcow2 := func(r *Request) { r.Format = QCOW2 }
	for _, test := range []struct {
		output, why string
		change      func(r *Request)
	}{
		{at("file"), "exists", nil}, {at("half"), "half.partial exists", nil}, {at("link"), "exists", nil}, {at("dir"), "is a directory", nil},
		{at("pipe"), "neither a new file nor a block device", nil}, {"/dev/null", "neither a new file nor a block device", nil},
		{"/dev/vbtest-none", "there is no device", nil}, {"/dev/vbtest/none", "there is no device", nil},
		{at("none/file"), "there is no directory", nil}, {at("repo/vm1/disk"), "nothing is restored into a repository", nil},
		{small, "has 24.0 MiB (25165824 bytes), disk vda has 24.0 MiB (25167360 bytes)", nil}, {readOnly, "is read-only", nil},
		{device, "takes raw bytes", qcow2}, {"-", "takes raw bytes", qcow2},
		{device, "not compressed", func(r *Request) { r.Zstd = 1 }}, {"-", "no space to preallocate", func(r *Request) { r.Preallocation = PreallocateFull }},
		{at("new"), "cannot be compressed", func(r *Request) { r.Format, r.Zstd = Raw, 3 }},
		{at("new"), "exactly one disk", func(r *Request) { r.Disks = nil }}, {at("new"), "exactly one disk", func(r *Request) { r.Disks = []string{"vda", "vdb"} }},
		{device, "is in use: by them", func(r *Request) {
			r.Users = func(context.Context, string) ([]string, error) { return []string{"by them"}, nil }
		}},
	} {
		r := request(test.output)
		r.Stdout = failingWriter{}
		if test.change != nil {
			test.change(&r)
		}
		if _, err := Output(t.Context(), repo, r); !fail.Is(err, fail.Usage) || !strings.Contains(err.Error(), test.why) || fail.HintOf(err) == "" {
			t.Errorf("%s: got %v, want fail.Usage that says %q, with a hint", test.output, err, test.why)
		}
	}
	for _, path := range []string{small, readOnly, device} {
		data, err := os.ReadFile(path)
		if err != nil || len(bytes.Trim(data, "\xee")) > 0 {
			t.Errorf("%s was written to (%v)", path, err)
		}
	}
	for _, name := range []string{"file", "half.partial"} {
		if data, _ := os.ReadFile(at(name)); string(data) != "theirs" {
			t.Errorf("%s has %q", name, data)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 6 {
		t.Errorf("left: %v", left)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("something is written") }

// wantOnDevice compares the beginning of a device with what the disk held, by qemu-img, and sees
// that the rest is as it was.
func wantOnDevice(t *testing.T, device string, content []byte) {
	t.Helper()
	of := fmt.Sprintf("driver=raw,size=%d,file.driver=host_device,file.filename=%s", len(content), device)
	want := "driver=raw,file.driver=file,file.filename=" + fileOf(t, content)
	if out, err := exec.Command("qemu-img", "compare", "--image-opts", of, want).CombinedOutput(); err != nil {
		t.Errorf("qemu-img compare: %v: %s", err, out)
	}
	data, err := os.ReadFile(device)
	must(t, err)
	if len(bytes.Trim(data[len(content):], "\xee")) > 0 {
		t.Error("what is behind the disk was changed")
	}
}

// A device gets the whole disk, its first MiB last, and is left alone behind it.
func TestOutputToADevice(t *testing.T) {
	repo, content := oddDisk(t)
	for _, options := range [][]string{nil, {"--sector-size", "4096"}} {
		r := request(testfs.Loop(t, 32<<20, 0xee, options...))
		copied := false
		r.Progress = func(string, int64, int64) {
			if copied {
				return
			}
			copied = true
			wantHeadless(t, r.Output)
		}
		result, err := Output(t.Context(), repo, r)
		must(t, err)
		if want := int64(32<<20 - len(content)); result.Beyond != want || result.Format != Raw || !copied {
			t.Errorf("got %+v, want %d bytes beyond", result, want)
		}
		wantOnDevice(t, r.Output, content)
	}
}

// wantHeadless sees that a device begins with 1 MiB of zeros.
func wantHeadless(t *testing.T, device string) {
	t.Helper()
	f, err := os.Open(device)
	must(t, err)
	defer f.Close()
	head := make([]byte, headBytes)
	if _, err := f.Read(head); err != nil || len(bytes.Trim(head, "\x00")) > 0 {
		t.Errorf("the head of the device is not zeros (%v)", err)
	}
}

// A restore to a device that is not completed leaves zeros where a disk begins, says so, and
// can be begun again.
func TestOutputToADeviceCancelled(t *testing.T) {
	repo, content := oddDisk(t)
	r := request(testfs.Loop(t, 32<<20, 0xee))
	ctx, cancel := context.WithCancelCause(t.Context())
	r.Progress = func(string, int64, int64) { cancel(errors.New("enough")) }
	if _, err := Output(ctx, repo, r); err == nil || !strings.Contains(err.Error(), "enough") || !strings.Contains(fail.HintOf(err), "begin the restore again") {
		t.Errorf("got %v, hint %q", err, fail.HintOf(err))
	}
	wantHeadless(t, r.Output)
	r.Progress = nil
	_, err := Output(t.Context(), repo, r)
	must(t, err)
	wantOnDevice(t, r.Output, content)
}

// Nothing of a damaged image gets to a device as if it were right.
func TestOutputOfADamagedDisk(t *testing.T) {
	repo, content := oddDisk(t)
	links, err := repo.Links("vm1", "check2", "vda")
	must(t, err)
	for name, at := range placesOf(t, links[1].Path) {
		for _, output := range []string{testfs.Loop(t, 32<<20, 0xee), "-", filepath.Join(t.TempDir(), "new")} {
			t.Run(name+" "+output, func(t *testing.T) {
				misread(t, "check2/vda.qcow2", at, 1<<40)
				var stdout bytes.Buffer
				r := request(output)
				r.Stdout = &stdout
				if _, err := Output(t.Context(), repo, r); !fail.Is(err, fail.Damaged) || strings.Contains(fail.HintOf(err), "begin the restore again") {
					t.Errorf("got %v, hint %q, want damage, which another attempt meets again", err, fail.HintOf(err))
				}
				if got := stdout.Bytes(); !bytes.Equal(got, content[:len(got)]) {
					t.Error("wrong bytes were written")
				}
				if _, err := os.Stat(filepath.Join(filepath.Dir(output), "new")); err == nil {
					t.Error("the file is there")
				}
				if data, _ := os.ReadFile(output); len(data) > 0 && data[0] != 0 && data[0] != 0xee {
					t.Error("the device has a head")
				}
			})
		}
	}
}

func TestOutputToAStream(t *testing.T) {
	repo, content := oddDisk(t)
	var stdout bytes.Buffer
	r := request("-")
	r.Stdout = &stdout
	result, err := Output(t.Context(), repo, r)
	if err != nil || result.Output != "-" || !bytes.Equal(stdout.Bytes(), content) {
		t.Errorf("got %+v, %v, %d bytes of %d, want what the disk held", result, err, stdout.Len(), len(content))
	}
	r.Stdout = failingWriter{}
	if _, err := Output(t.Context(), repo, r); err == nil || !strings.Contains(err.Error(), "something is written") {
		t.Errorf("got %v, want the error of the writer", err)
	}
}

// A reader of standard output that has stopped does not keep a restore from ending.
func TestOutputToAStreamThatStands(t *testing.T) {
	repo, _ := oddDisk(t)
	from, to, err := os.Pipe()
	must(t, err)
	defer from.Close()
	defer to.Close()
	to.Fd() // blocks from now on, as standard output does
	ctx, cancel := context.WithCancelCause(t.Context())
	r := request("-")
	r.Stdout = to
	ended := make(chan error, 1)
	go func() {
		_, err := Output(ctx, repo, r)
		ended <- err
	}()
	time.Sleep(100 * time.Millisecond)
	cancel(errors.New("enough"))
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "enough") {
			t.Errorf("got %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("it hangs")
	}
}

// A file that was moved to where a killed restore was going to make its own stays.
func TestOutputToAFileWhereOneWasMovedTo(t *testing.T) {
	repo, _ := oddDisk(t)
	dir := t.TempDir()
	r := request(filepath.Join(dir, "disk.img"))
	leave(t, dir, filepath.Join(dir, ".disk.img"+markerName), marker{Names: []string{"disk.img", "disk.img.partial"}}, "disk.img.partial")
	must(t, os.WriteFile(r.Output, []byte("precious"), 0o600))
	must(t, os.Chtimes(r.Output, time.Time{}, time.Now().Add(-time.Hour)))
	if _, err := Output(t.Context(), repo, r); !fail.Is(err, fail.Usage) {
		t.Errorf("got %v, want fail.Usage", err)
	}
	if data, _ := os.ReadFile(r.Output); string(data) != "precious" {
		t.Error("the file is gone")
	}
}
