package hypervisor

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// newUEFIGuest is a guest with UEFI firmware that libvirt chooses, with its processor paused; defined only, if it is not
// to be started.
func newUEFIGuest(t *testing.T, start bool) guest {
	t.Helper()
	t.Parallel()
	conn := connect(t)
	dir := t.TempDir()
	name := fmt.Sprintf("vbtest-uefi-%d-%s", os.Getpid(), strings.ToLower(t.Name()))
	definition := filepath.Join(dir, "domain.xml")
	must(t, os.WriteFile(definition, fmt.Appendf(nil, `<domain type='qemu'><name>%s</name><memory unit='MiB'>128</memory>
		<os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
		<devices><memballoon model='none'/></devices></domain>`, name), 0o600))
	virsh(t, "define", definition)
	t.Cleanup(func() {
		if active := virsh(t, "domstate", name); strings.TrimSpace(active) != "shut off" {
			virsh(t, "destroy", name)
		}
		virsh(t, "undefine", name, "--nvram")
	})
	if start {
		virsh(t, "start", name, "--paused")
	}
	domain, err := conn.Domain(name)
	must(t, err)
	return guest{domain, dir}
}

func TestPlannedNVRAM(t *testing.T) {
	g := newUEFIGuest(t, false)
	path, format, err := g.PlannedNVRAM()
	must(t, err)
	if format != "raw" || !strings.HasSuffix(path, "/"+g.Name()+"_VARS.fd") {
		t.Errorf("got %q, %q", path, format)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("asking has made it: %v", err)
	}
	virsh(t, "start", g.Name(), "--paused")
	if _, err := os.Stat(path); err != nil {
		t.Errorf("libvirt has put it elsewhere: %v", err)
	}
	if on, err := g.Autostart(); on || err != nil {
		t.Errorf("autostart %v, %v", on, err)
	}
	virsh(t, "autostart", g.Name())
	defer virsh(t, "autostart", g.Name(), "--disable")
	if on, err := g.Autostart(); !on || err != nil {
		t.Errorf("autostart %v, %v", on, err)
	}
}

func TestPlannedNVRAMOfCommandLines(t *testing.T) {
	for _, tt := range []struct{ name, line, path, format string }{
		{"none", "/usr/bin/qemu \\\n-S", "", ""},
		{"no JSON", "-blockdev driver=file,node-name=libvirt-pflash1-storage,filename=/x \\", "", ""},
		{"raw without a node of its own", `-blockdev '{"driver":"file","filename":"/n/a b.fd","node-name":"libvirt-pflash1-storage"}' \`, "/n/a b.fd", "raw"},
		{"an apostrophe", `-blockdev '{"driver":"file","filename":"/it'\''s.fd","node-name":"libvirt-pflash1-storage"}'`, "/it's.fd", "raw"},
		{"qcow2", "-blockdev '{\"driver\":\"file\",\"filename\":\"/n.qcow2\",\"node-name\":\"libvirt-pflash1-storage\"}' \\\n" +
			"-blockdev '{\"node-name\":\"libvirt-pflash1-format\",\"driver\":\"qcow2\",\"file\":\"libvirt-pflash1-storage\"}' \\\n", "/n.qcow2", "qcow2"},
	} {
		if path, format := plannedNVRAM(tt.line); path != tt.path || format != tt.format {
			t.Errorf("%s: got %q, %q, want %q, %q", tt.name, path, format, tt.path, tt.format)
		}
	}
}

// anonymous is a file without a name.
func anonymous(t *testing.T) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	must(t, err)
	t.Cleanup(func() { f.Close() })
	must(t, os.Remove(f.Name()))
	return f
}

func content(t *testing.T, f *os.File) []byte {
	t.Helper()
	_, err := f.Seek(0, io.SeekStart)
	must(t, err)
	data, err := io.ReadAll(f)
	must(t, err)
	return data
}

// What a QEMU has of CopyNVRAM.
func (g guest) nvramLeft(t *testing.T) string {
	t.Helper()
	var left []string
	for _, query := range []string{"query-jobs", "query-named-block-nodes", "query-fdsets"} {
		if out := virsh(t, "qemu-monitor-command", g.Name(), fmt.Sprintf(`{"execute":%q}`, query)); strings.Contains(out, nvramCopy) {
			left = append(left, out)
		}
	}
	return strings.Join(left, "\n")
}

// CopyNVRAM copies what the file holds, and leaves nothing in QEMU: nor does a process that was killed, for long.
func TestCopyNVRAM(t *testing.T) {
	g := newUEFIGuest(t, true)
	path, _, err := g.PlannedNVRAM()
	must(t, err)
	virsh(t, "resume", g.Name()) // QEMU closes the files of a set only while the guest runs
	for range 3 {
		must(t, g.CopyNVRAM(t.Context(), anonymous(t)))
		if left := g.nvramLeft(t); left != "" {
			t.Errorf("left in QEMU: %s", left)
		}
	}
	virsh(t, "suspend", g.Name())
	to := anonymous(t)
	must(t, g.CopyNVRAM(t.Context(), to))
	want, err := os.ReadFile(path)
	must(t, err)
	if got := content(t, to); !bytes.Equal(got, want) {
		t.Errorf("%d bytes are not the %d of %s", len(got), len(want), path)
	}
	virsh(t, "resume", g.Name())

	must(t, g.monitor("add-fd", map[string]any{"opaque": nvramCopy}, nil, anonymous(t)))
	must(t, g.monitor("blockdev-add", map[string]any{"driver": "null-co", "node-name": nvramCopy, "size": len(want)}, nil))
	must(t, g.monitor("blockdev-backup", map[string]any{"job-id": nvramCopy, "device": "libvirt-pflash1-storage", "target": nvramCopy,
		"sync": "full", "auto-dismiss": false, "speed": 1}, nil))
	must(t, g.CopyNVRAM(t.Context(), anonymous(t)))
	if left := g.nvramLeft(t); left != "" {
		t.Errorf("left in QEMU: %s", left)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = g.CopyNVRAM(ctx, anonymous(t)) // it may be complete by then
	if left := g.nvramLeft(t); left != "" {
		t.Errorf("left in QEMU: %s", left)
	}
	virsh(t, "destroy", g.Name())
	wantErr(t, "copy from a domain that is off", g.CopyNVRAM(t.Context(), anonymous(t)), ErrNotRunning, "not running")
}

func TestCopyNVRAMOfABIOS(t *testing.T) {
	g := newGuest(t)
	if path, format, err := g.PlannedNVRAM(); path != "" || format != "" || err != nil {
		t.Errorf("PlannedNVRAM = %q, %q, %v", path, format, err)
	}
	if err := g.CopyNVRAM(t.Context(), anonymous(t)); err == nil || !strings.Contains(err.Error(), "no node of that kind") {
		t.Errorf("copy: %v", err)
	}
}

func TestParseReply(t *testing.T) {
	var n int
	if err := parseReply(`{"return": 7, "id": "libvirt-1"}`, &n); err != nil || n != 7 {
		t.Errorf("got %d, %v", n, err)
	}
	for answer, want := range map[string]string{
		`{"id": "1", "error": {"class": "GenericError", "desc": "Cannot find device"}}`: "Cannot find device",
		`no JSON`: "parse the reply", `{}`: "not answered", `{"return": "seven"}`: "parse the reply",
	} {
		if err := parseReply(answer, &n); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", answer, err, want)
		}
	}
}
