package inplace

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

func overwrite(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func wantContent(t *testing.T, path, want string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil || string(data) != want {
		t.Errorf("%s: %v, %d bytes, want %d", path, err, len(data), len(want))
	}
}

// UEFI variables and a kernel come back with the disks, in the files that they were in; a kernel
// that another domain starts with is left alone.
func TestExtras(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 4 * mib}))
	s.Init()
	s.MayWarn = true
	vars, kernel, firmware := filepath.Join(s.Dir, "vars.fd"), filepath.Join(s.Dir, "vmlinuz"), filepath.Join(s.Dir, "code.fd")
	thenVars, thenKernel := strings.Repeat("v", 64<<10), strings.Repeat("k", 5<<20)
	for path, text := range map[string]string{vars: thenVars, kernel: thenKernel, firmware: "code"} {
		testsite.WriteFile(t, path, text)
	}
	s.Redefine("</type>", "</type><loader readonly='yes' type='pflash'>"+firmware+"</loader><nvram>"+vars+"</nvram><kernel>"+kernel+"</kernel>")
	t.Cleanup(func() { _, _ = testdomain.TryVirsh(t, "undefine", s.Name, "--nvram", "--checkpoints-metadata") })
	s.BackUp(0, "full")
	mode := testdomain.Tool(t, "stat", "-c", "%i %u %g %a", vars)
	overwrite(t, vars, strings.Repeat("x", len(thenVars)))
	overwrite(t, kernel, "another kernel")
	testdomain.QemuIO(t, s.Disk("vda").Source, "qcow2", "write -P 0x33 1M 64k")

	restored(t, s, "check1", "--no-save", "--disk", "vda")
	wantContent(t, kernel, "another kernel") // disks were chosen
	r := restored(t, s, "check1", "--no-save")
	wantContent(t, vars, thenVars)
	wantContent(t, kernel, thenKernel)
	wantPoint(t, s, pointOf(t, s, "check1"))
	if after := testdomain.Tool(t, "stat", "-c", "%i %u %g %a", vars); after != mode {
		t.Errorf("the variables are another file now: %q, before %q", after, mode)
	}
	if len(r.Notes) != 2 {
		t.Errorf("notes %q", r.Notes)
	}

	overwrite(t, kernel, "another kernel")
	other := testdomain.Define(t, testdomain.Disk{Target: "vda", Size: mib})
	otherSite := testsite.New(t, other)
	otherSite.Redefine("</type>", "</type><kernel>"+kernel+"</kernel>")
	testdomain.QemuIO(t, s.Disk("vda").Source, "qcow2", "write -P 0x33 1M 64k")
	result := s.Program.Must(t, []int{3}, "restore", s.Name+"@check1", "--in-place", "--yes", "--no-save")
	if !strings.Contains(result.Stderr, "domain "+other.Name+" starts with it, too") {
		t.Error("it does not say why the kernel is not put back")
	}
	wantContent(t, kernel, "another kernel")
	wantContent(t, vars, thenVars)
}

// The state of a TPM comes back: a directory of files that come and go.
func TestTPM(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 4 * mib}))
	s.Init()
	s.MayWarn = true
	s.Redefine("</devices>", "<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm></devices>")
	dir := filepath.Join("/var/lib/libvirt/swtpm", s.UUID, "tpm2")
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Dir(dir)) })
	testsite.WriteFile(t, filepath.Join(dir, "tpm2-00.permall"), "state one")
	s.BackUp(0, "full")
	testsite.WriteFile(t, filepath.Join(dir, "tpm2-00.permall"), "state two")
	testsite.WriteFile(t, filepath.Join(dir, "tpm2-00.volatilestate"), "volatile")
	r := s.Program.Must(t, []int{0, 3}, "restore", s.Name+"@check1", "--in-place", "--yes", "--no-save")
	if !strings.Contains(r.Stderr, "overwritten, too: "+dir) {
		t.Error("it does not say that the TPM's state is overwritten")
	}
	wantContent(t, filepath.Join(dir, "tpm2-00.permall"), "state one")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	if entries, err = os.ReadDir(filepath.Dir(dir)); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// What a symbolic link leads to is not overwritten by its name: that of the host's kernel leads to
// another one after each upgrade.
func TestExtraBehindALink(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.Define(t, testdomain.Disk{Target: "vda", Size: 4 * mib}))
	s.Init()
	s.MayWarn = true
	link, then, now := filepath.Join(s.Dir, "vmlinuz"), filepath.Join(s.Dir, "vmlinuz-6.1.0-20"), filepath.Join(s.Dir, "vmlinuz-6.1.0-21")
	testsite.WriteFile(t, then, "the kernel then")
	testsite.WriteFile(t, now, "the kernel now")
	testdomain.Tool(t, "ln", "-s", filepath.Base(then), link)
	s.Redefine("</type>", "</type><kernel>"+link+"</kernel>")
	s.BackUp(0, "full")
	testdomain.QemuIO(t, s.Disk("vda").Source, "qcow2", "write -P 0x33 1M 64k")
	s.Program.Must(t, []int{0}, "restore", s.Name+"@check1", "--in-place", "--yes", "--no-save") // the kernel is as it was
	testdomain.Tool(t, "ln", "-sfn", filepath.Base(now), link)
	testdomain.QemuIO(t, s.Disk("vda").Source, "qcow2", "write -P 0x33 1M 64k")
	r := s.Program.Must(t, []int{3}, "restore", s.Name+"@check1", "--in-place", "--yes", "--no-save")
	if !strings.Contains(r.Stderr, "it is a symbolic link") {
		t.Error("it does not say why the kernel is not put back")
	}
	wantContent(t, now, "the kernel now")
	wantContent(t, then, "the kernel then")
	wantPoint(t, s, pointOf(t, s, "check1"))
}
