package testdomain

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// IO runs qemu-io commands on a disk inside the domain's QEMU, one after the
// other, so that dirty bitmaps see them: "write -P 0x41 0 64M", "write -z 0
// 64k", "write -z -u 0 64k", "discard 0 64k", "flush". One that fails ends
// the test.
func (d *Domain) IO(target string, commands ...string) {
	d.t.Helper()
	if err := d.TryIO(target, commands...); err != nil {
		d.t.Fatal(err)
	}
}

// TryIO is IO for commands that may fail. Commands that follow a failing one still run.
func (d *Domain) TryIO(target string, commands ...string) error {
	d.t.Helper()
	// QEMU prints the result of a command to its log, not to the monitor. A command that
	// qemu-io does not know marks the end of our part of it.
	log := readLog(logOf(d.Name))
	mark := fmt.Sprintf("end-%d", serial.Add(1))
	var err error
	for _, c := range append(slices.Clone(commands), mark) {
		out, refused := hmp(d.Name, fmt.Sprintf(`qemu-io -d /machine/peripheral/ua-%s/virtio-backend "%s"`, target, c))
		if said := strings.TrimSpace(out); refused == nil && said != "" {
			refused = errors.New(said)
		}
		err = cmp.Or(err, refused)
	}
	var out string
	if err == nil {
		out, err = log.until(`command "` + mark + `" not found`)
	}
	if err == nil {
		err = judge(commands, out)
	}
	if err != nil {
		return fmt.Errorf("qemu-io on %s of %s: %w", target, d.Name, err)
	}
	return nil
}

// done is what qemu-io prints for a request that it carried out.
var done = regexp.MustCompile(`(?m)^(wrote|discard|read) (\d+)/(\d+) bytes at offset`)

// others matches what QEMU itself reports in the same log, such as its NBD server about
// clients that were killed. qemu-io prints no name.
var others = regexp.MustCompile(`(?m)^.*qemu-system-x86_64: .*$`)

// judge finds out whether all commands were carried out. The monitor command succeeds even if
// the request fails, so only qemu-io's text tells.
func judge(commands []string, out string) error {
	want := 0
	for _, c := range commands {
		if verb, _, _ := strings.Cut(c, " "); verb != "flush" {
			want++
		}
	}
	got := 0
	for _, m := range done.FindAllStringSubmatch(out, -1) {
		if m[2] == m[3] {
			got++
		}
	}
	low := strings.ToLower(others.ReplaceAllString(out, ""))
	if got != want || strings.Contains(low, "failed") || strings.Contains(low, "error") {
		return errors.New(strings.Join(commands, "; ") + ": " + strings.TrimSpace(out))
	}
	return nil
}

// Write fills length bytes at offset with pattern.
func (d *Domain) Write(target string, offset, length int64, pattern byte) {
	d.t.Helper()
	d.IO(target, fmt.Sprintf("write -P %#x %d %d", pattern, offset, length))
}

// Truth writes the present content of the disk to the file raw, with qemu-img alone. The
// domain must be off or paused, or must not write to the disk.
func (d *Domain) Truth(target, raw string) {
	d.t.Helper()
	disk := d.Disk(target)
	if d.State() != "shut" {
		// What QEMU still caches of the qcow2 metadata has to be in the file.
		d.IO(target, "flush")
	}
	Tool(d.t, "qemu-img", "convert", "-U", "-f", disk.Format, "-O", "raw", disk.Source, raw)
}

// Flatten writes what an image, with its chain of backing files, holds to the
// file raw, with qemu-img alone.
func Flatten(t testing.TB, image, raw string) {
	t.Helper()
	Tool(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw)
}

// CheckImage lets qemu-img check a qcow2 image: an error or a leak ends the test.
func CheckImage(t testing.TB, image string) {
	t.Helper()
	Tool(t, "qemu-img", "check", "-f", "qcow2", image)
}

// Header is the beginning of that of a qcow2 image, as docs/interop/qcow2.txt of QEMU has it.
type Header struct {
	Magic, Version    uint32
	BackingFileOffset uint64 // 0: there is none
	BackingFileSize   uint32
	ClusterBits       uint32
	Size              int64 // of the disk, in bytes
}

// HeaderOf reads the header of a qcow2 image: without qemu-img, whose start takes longer than most
// of what is compared, and without package qcow2, which has written the images that are judged.
func HeaderOf(t testing.TB, image string) (h Header) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := binary.Read(f, binary.BigEndian, &h); err != nil || h.Magic != 0x514649fb {
		t.Fatalf("%s is no qcow2 image: it begins with %#x, %v", image, h.Magic, err)
	}
	return h
}

// VirtualSize is that of the disk in an image, in bytes.
func VirtualSize(t testing.TB, image, format string) int64 {
	t.Helper()
	if format == "qcow2" {
		return HeaderOf(t, image).Size
	}
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd) // of a device, too
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// Compare returns an error unless two raw files are the same byte for byte, and as long. cmp(1)
// asks for 4 KiB at a time, which took a tenth of the time of all tests.
func Compare(a, b string) error {
	var files [2]*os.File
	for i, path := range []string{a, b} {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		files[i] = f
	}
	var p [2][1 << 20]byte
	for at := 0; ; {
		var n [2]int
		for i, f := range files {
			var err error
			if n[i], err = io.ReadFull(f, p[i][:]); err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return err
			}
		}
		if !bytes.Equal(p[0][:n[0]], p[1][:n[1]]) {
			return fmt.Errorf("%s and %s differ in the %d and %d bytes at offset %d", a, b, n[0], n[1], at)
		}
		if n[0] == 0 {
			return nil
		}
		at += n[0]
	}
}

// Same ends the test where an image of any format ("qcow2", "raw") does not
// hold exactly what the raw image truth holds, size included.
func Same(t testing.TB, image, format, truth string) {
	t.Helper()
	if a, b := VirtualSize(t, image, format), VirtualSize(t, truth, "raw"); a != b {
		t.Fatalf("%s has %d bytes, the truth has %d", image, a, b)
	}
	Tool(t, "qemu-img", "compare", "-U", "-f", format, "-F", "raw", image, truth)
}

// QemuIO runs one command of qemu-io on an image file that no QEMU has open;
// a read with -P whose pattern is not found ends the test.
func QemuIO(t testing.TB, image, format, command string) {
	t.Helper()
	out := Tool(t, "qemu-io", "-f", format, "-c", command, image)
	if err := judge([]string{command}, out); err != nil {
		t.Fatalf("%s: %v", image, err)
	}
}
