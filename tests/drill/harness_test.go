package drill

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/drill/record"
	"github.com/virtbackup/virtbackup/drill/remains"
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// said is what the boot sector writes to the serial port, besides a colour.
const said = "VBTEST-UP"

// bootSector is a whole operating system: it writes a text to the first serial port, and halts.
func bootSector() []byte {
	code := []byte{
		0x31, 0xc0, // xor ax, ax
		0x8e, 0xd8, // mov ds, ax
		0xfc,             // cld
		0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xbe, 0x16, 0x7c, // mov si, 0x7c16
		0xac,       // next: lodsb
		0x84, 0xc0, // test al, al
		0x74, 0x03, // jz halt
		0xee,       // out dx, al
		0xeb, 0xf8, // jmp next
		0xf4,       // halt: hlt
		0xeb, 0xfd, // jmp halt
	}
	sector := make([]byte, 512)
	copy(sector, append(code, "\x1b[31m"+said+"\x07\r\n"...))
	sector[510], sector[511] = 0x55, 0xaa
	return sector
}

// defineTiny defines a domain that boots from its disk within two or three seconds, and has no agent.
func defineTiny(t *testing.T) *testdomain.Domain {
	t.Helper()
	d := testdomain.DefineWith(t, "<boot dev='hd'/>", "<serial type='pty'/><video><model type='vga'/></video>", testdomain.Disk{Target: "vda", Size: 1 << 20})
	raw := filepath.Join(d.Dir, "boot.raw")
	testsite.WriteFile(t, raw, string(append(bootSector(), make([]byte, 1<<20-512)...)))
	testdomain.Tool(t, "qemu-img", "convert", "-O", "qcow2", raw, d.Disks[0].Source)
	return d
}

// tiny is such a domain with a point.
func tiny(t *testing.T) *testsite.Site {
	t.Helper()
	s := testsite.New(t, defineTiny(t))
	s.Program.Must(t, nil, "--quiet", "full", s.Name)
	return s
}

// drill drills, and returns the records in the repository afterwards.
func drill(s *testsite.Site, code int, args ...string) (testdomain.Result, []record.Record) {
	s.T.Helper()
	r := s.Program.Must(s.T, []int{code}, append([]string{"drill"}, args...)...)
	wantNothingLeft(s)
	return r, records(s)
}

func records(s *testsite.Site) []record.Record { return record.List(filepath.Join(s.Repo, s.Name)) }

// noted are the ids of drills that run, or have left something.
func noted(s *testsite.Site) (ids []string) {
	s.T.Helper()
	const prefix = ".running-"
	found, err := filepath.Glob(filepath.Join(s.Repo, "*", record.DirName, prefix+"*"))
	if err != nil {
		s.T.Fatal(err)
	}
	for _, path := range found {
		ids = append(ids, strings.TrimPrefix(filepath.Base(path), prefix))
	}
	return ids
}

// wantNothingLeft looks for what drills have made: those with these ids, and those with a record.
func wantNothingLeft(s *testsite.Site, ids ...string) {
	s.T.Helper()
	if left, err := filepath.Glob(filepath.Join(s.Repo, "*", record.DirName, ".*")); err != nil || len(left) > 0 {
		s.T.Errorf("left: %q, %v", left, err)
	}
	for _, r := range records(s) {
		ids = append(ids, r.ID)
	}
	domains := testdomain.Virsh(s.T, "list", "--all", "--name")
	for _, id := range ids {
		name := remains.NamePrefix + id
		if strings.Contains(domains, name) {
			s.T.Errorf("domain %s is left", name)
		}
		// libvirt cuts names of directories after 20 bytes (virDomainDefGetShortName).
		for _, pattern := range []string{filepath.Join(guest.DefaultRunDir, name), "/var/log/libvirt/qemu/" + name + "*", "/run/libvirt/qemu/" + name + "*",
			"/var/lib/libvirt/qemu/domain-*-" + name[:20], "/var/lib/libvirt/qemu/nvram/" + name + "*"} {
			if found, err := filepath.Glob(pattern); err != nil || len(found) > 0 {
				s.T.Errorf("left: %q, %v", found, err)
			}
		}
	}
}

// points are all files of a domain's points, which no drill changes.
func points(s *testsite.Site) string {
	s.T.Helper()
	all := ""
	found, err := filepath.Glob(filepath.Join(s.Repo, s.Name, "check*", "*"))
	if err != nil || len(found) == 0 {
		s.T.Fatal(found, err)
	}
	for _, path := range found {
		all += testdomain.Tool(s.T, "stat", "-c", "%n %U:%G %a %Y %s", path) + testdomain.Tool(s.T, "sha256sum", path)
	}
	return all
}

// script makes a program.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// broken is the program with a fault.
func broken(s *testsite.Site, fault string) testdomain.Program {
	s.T.Helper()
	p := s.Program
	p.Binary, p.Env = testdomain.FaultyBinary(s.T), append(slices.Clone(p.Env), "VIRTBACKUP_FAULT="+fault)
	return p
}

// listed is the drill that list shows of the only point.
func listed(s *testsite.Site) *record.Record {
	s.T.Helper()
	var all []struct{ Drill *record.Record }
	if err := json.Unmarshal([]byte(s.Program.Must(s.T, nil, "--json", "list", s.Name).Stdout), &all); err != nil || len(all) != 1 {
		s.T.Fatalf("%d points, %v", len(all), err)
	}
	return all[0].Drill
}
