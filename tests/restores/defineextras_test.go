package restores

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// What a domain needs besides its disks is put back, for QEMU's user, and the domain refers
// to it; what has no place in the new domain's directory does not collide.
func TestDefineWithExtras(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.NewWithExtras(t, testdomain.Disk{Target: "vda", Size: mib}))
	want := map[string][]byte{}
	for name, stored := range map[string]string{"vars.fd": "nvram.fd", "vmlinuz": "kernel", "initrd.gz": "initrd"} {
		data, err := os.ReadFile(filepath.Join(s.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		want[stored] = data
	}
	testdomain.Virsh(t, "autostart", s.Name)
	s.BackUp(0, "full")
	name := testdomain.NewName()
	copyOf(s, name)
	dir := newDir(t)
	if result := defined(s, s.Name, dir, "--name", name); len(result.Extras) != 3 || result.Autostart {
		t.Errorf("restored besides: %+v, autostart %v", result.Extras, result.Autostart)
	}
	doc := testdomain.Virsh(t, "dumpxml", name)
	if strings.Contains(doc, s.Dir+"/") {
		t.Errorf("it refers to the original: %s", doc)
	}
	for stored, data := range want {
		path := filepath.Join(dir, stored)
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, data) || !strings.Contains(doc, path+"<") {
			t.Errorf("%s: %v, %d bytes of %d, in the XML %v", stored, err, len(got), len(data), strings.Contains(doc, path))
		}
		if info, err := os.Stat(path); err != nil || info.Sys().(*syscall.Stat_t).Uid == 0 {
			t.Errorf("%s is not of QEMU's user: %v", path, err)
		}
	}

	lose(s)
	if result := defined(s, s.Name, newDir(t)); !result.Autostart {
		t.Error("it does not start with the host any more")
	}
	if info := testdomain.Virsh(t, "dominfo", s.Name); !strings.Contains(info, "Autostart:      enable") {
		t.Errorf("autostart: %s", info)
	}
}

// The state of the TPM of a domain that was off is put back, for another domain in a place of
// its own.
func TestDefineWithTPM(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.DefineWith(t, "<boot dev='hd'/>", "<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>", testdomain.Disk{Target: "vda", Size: mib}))
	s.Start() // makes the state
	s.Destroy()
	state := func(uuid string) string { return filepath.Join("/var/lib/libvirt/swtpm", uuid) }
	const file = "tpm2/tpm2-00.permall"
	want, err := os.ReadFile(filepath.Join(state(s.UUID), file))
	if err != nil {
		t.Fatal(err)
	}
	s.BackUp(0, "full")
	name := testdomain.NewName()
	copyOf(s, name)
	dir := newDir(t)
	result := defined(s, s.Name, dir, "--name", name)
	t.Cleanup(func() { os.RemoveAll(state(result.UUID)) })
	if got, err := os.ReadFile(filepath.Join(state(result.UUID), file)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the state of the TPM of the copy: %v", err)
	}
	testsite.WantLine(t, strings.Join(result.Changes, "\n"), "^the TPM has its state as of the point, in "+state(result.UUID)+"$")
	if left, _ := filepath.Glob(dir + "/tpm*"); len(left) > 0 || len(result.Extras) > 0 {
		t.Errorf("beside the images: %v, told %+v", left, result.Extras)
	}
	testdomain.Virsh(t, "start", name, "--paused") // swtpm takes it
	testdomain.Virsh(t, "destroy", name)

	// The same domain, whose state is still there, as the hint says how to undefine it: it is
	// set aside.
	undefine := []string{"undefine", s.Name, "--managed-save", "--snapshots-metadata", "--checkpoints-metadata", "--keep-nvram", "--keep-tpm"}
	again := newDir(t)
	s.Rejects(testsite.Reject(1, "it is defined already", "virsh "+strings.Join(undefine, " ")), []string{"restore", s.Name, "--define", "--to", again}, again)
	testdomain.Virsh(t, undefine...)
	if got, err := os.ReadFile(filepath.Join(state(s.UUID), file)); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("the state of the TPM of the domain that is undefined: %v", err)
	}
	testsite.WriteFile(t, filepath.Join(state(s.UUID), file), "newer")
	if r := broken(s, "define: autostart#1", "error", "restore", s.Name, "--define", "--to", again); r.Code != 1 {
		t.Errorf("exit %d", r.Code)
	}
	if got, err := os.ReadFile(filepath.Join(state(s.UUID), file)); string(got) != "newer" {
		t.Errorf("after a restore that failed: %v", err)
	}
	result = defined(s, s.Name, again)
	if got, err := os.ReadFile(filepath.Join(state(s.UUID), file)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the state of the TPM: %v", err)
	}
	aside, _ := filepath.Glob(state(s.UUID) + ".before-*")
	if len(aside) != 1 {
		t.Fatalf("set aside: %v", aside)
	}
	testsite.WantLine(t, strings.Join(result.Changes, "\n"), "the one that was there is in "+aside[0]+"$")
	if got, err := os.ReadFile(filepath.Join(aside[0], file)); string(got) != "newer" {
		t.Errorf("what was set aside: %v", err)
	}
	for _, dir := range append(aside, state(s.UUID)) {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}
}

// A domain that has the name, but is another one, is not replaced.
func TestDefineWhereAnotherHasTheName(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: mib}))
	s.BackUp(0, "full")
	lose(s)
	testdomain.DefineAs(t, testdomain.Identity{Name: s.Name}, testdomain.Disk{Target: "vda", Size: mib})
	dir := newDir(t)
	s.Rejects(testsite.Reject(1, "there is another domain "+s.Name, "--name NEW"), []string{"restore", s.Name, "--define", "--to", dir}, filepath.Dir(filepath.Dir(dir)))
}

// The state of a TPM that the point does not have stays where it is, whether the restore fails
// or not.
func TestDefineBesideTPM(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.DefineWith(t, "<boot dev='hd'/>", "<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>", testdomain.Disk{Target: "vda", Size: mib}))
	s.Start()
	s.BackUp(3, "full") // says that the state is not in the point
	s.Destroy()
	dir := filepath.Join("/var/lib/libvirt/swtpm", s.UUID)
	t.Cleanup(func() { os.RemoveAll(dir) })
	file := filepath.Join(dir, "tpm2/tpm2-00.permall")
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	testdomain.Virsh(t, "undefine", s.Name, "--checkpoints-metadata", "--keep-nvram", "--keep-tpm")
	to := newDir(t)
	if r := broken(s, "define: autostart#1", "error", "restore", s.Name, "--define", "--to", to); r.Code != 1 {
		t.Errorf("exit %d", r.Code)
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the state of the TPM after a restore that failed: %v", err)
	}
	defined(s, s.Name, to)
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the state of the TPM: %v", err)
	}
}
