package chains

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
	"github.com/virtbackup/virtbackup/verify"
)

// extrasSite is a domain with UEFI firmware, a kernel and an initrd, that is paused. state is
// what its files held at the instant of each point.
type extrasSite struct {
	*testsite.Site
	state []map[string][]byte
}

// files of the domain, by their names in a point.
var extraFiles = map[string]string{"nvram.fd": "vars.fd", "kernel": "vmlinuz", "initrd": "initrd.gz"}

func newExtrasSite(t *testing.T) *extrasSite {
	t.Helper()
	return &extrasSite{Site: testsite.New(t, testdomain.NewWithExtras(t, testdomain.Disk{Target: "vda", Size: 4 << 20}))}
}

// write gives a file of the domain new content.
func (s *extrasSite) write(name string, size int) {
	s.T.Helper()
	data := make([]byte, size)
	random := rand.NewChaCha8([32]byte{byte(len(s.state)), name[0]})
	_, _ = random.Read(data)
	testsite.WriteFile(s.T, filepath.Join(s.Dir, name), string(data))
}

// point makes a point, and records what the files held.
func (s *extrasSite) point(code int, kind string, args ...string) backup.Result {
	s.T.Helper()
	state := map[string][]byte{}
	for name, from := range extraFiles {
		data, err := os.ReadFile(filepath.Join(s.Dir, from))
		if err == nil {
			state[name] = data
		} else if !os.IsNotExist(err) {
			s.T.Fatal(err)
		}
	}
	s.state = append(s.state, state)
	s.Write("vda", int64(len(s.state))<<16, 65536, byte(len(s.state)))
	return s.BackUp(code, kind, args...)
}

// checkExtras compares the extras of all points, and what a restore makes of them, with what the
// files held.
func (s *extrasSite) checkExtras() {
	s.T.Helper()
	for i, p := range s.Points {
		dirs := []string{filepath.Join(s.Repo, s.Name, p.ID), s.Restore(p, "qcow2")}
		for name := range extraFiles {
			for _, dir := range dirs {
				data, err := os.ReadFile(filepath.Join(dir, name))
				if want, had := s.state[i][name]; had && (err != nil || !bytes.Equal(data, want)) || !had && !os.IsNotExist(err) {
					s.T.Errorf("%s of %s in %s: %d bytes, %v, want %d", name, p.ID, dir, len(data), err, len(want))
				}
			}
		}
		if err := os.RemoveAll(dirs[1]); err != nil {
			s.T.Fatal(err)
		}
	}
}

// links is how many names the file of a point has.
func (s *extrasSite) links(point, name string) uint64 {
	s.T.Helper()
	info, err := os.Stat(filepath.Join(s.Repo, s.Name, point, name))
	if err != nil {
		s.T.Fatal(err)
	}
	return uint64(info.Sys().(*syscall.Stat_t).Nlink)
}

// A point keeps UEFI variables, kernel and initrd as they were at its instant, through merges,
// and verify knows each byte of them.
func TestExtras(t *testing.T) {
	t.Parallel()
	s := newExtrasSite(t)
	first := s.point(0, "full").Point
	kinds := func(m manifest.Manifest) (all []string) {
		for _, e := range m.Extras {
			all = append(all, string(e.Kind))
		}
		return all
	}
	if got := kinds(first); !slices.Equal(got, []string{"nvram", "kernel", "initrd"}) || first.Autostart {
		t.Errorf("extras %q, autostart %v", got, first.Autostart)
	}
	if e := first.Extras[0]; e.Path != filepath.Join(s.Dir, "vars.fd") || e.Format != "raw" || e.Mode != "0600" || e.UID == 0 {
		t.Errorf("variables %+v", e)
	}
	if o := first.Disks[0].SourceOptions; o.Compat != "1.1" || o.ClusterSize != 65536 || o.RefcountBits != 16 {
		t.Errorf("options %+v", o)
	}
	s.point(0, "inc")
	if n := s.links("check2", "kernel"); n != 2 {
		t.Errorf("the kernel, which has not changed, has %d names", n)
	}
	s.write("vars.fd", 540672)
	s.write("vmlinuz", 4<<20)
	testdomain.Virsh(t, "autostart", s.Name)
	if third := s.point(0, "inc").Point; !third.Autostart {
		t.Error("autostart is not in the point")
	}
	testdomain.Virsh(t, "autostart", s.Name, "--disable")
	if n := s.links("check3", "kernel"); n != 1 {
		t.Errorf("the new kernel has %d names", n)
	}
	if err := os.Remove(filepath.Join(s.Dir, "vars.fd")); err != nil {
		t.Fatal(err)
	}
	lacking := s.point(3, "diff")
	testsite.WantSaid(t, lacking.Warnings, "the UEFI variables are not in the point: "+filepath.Join(s.Dir, "vars.fd")+": missing")
	s.checkExtras()
	s.Check()
	shown := s.Program.Must(t, nil, "show", s.Name+"@check3").Stdout
	for _, want := range []string{"autostart:   yes", "also:        UEFI variables, 528.0 KiB in nvram.fd, from " + s.Dir + "/vars.fd", "kernel, 4.0 MiB in kernel"} {
		if !strings.Contains(shown, want) {
			t.Errorf("show lacks %q:\n%s", want, shown)
		}
	}
	s.Program.Must(t, nil, "verify", s.Name)
	s.damagedExtra()

	s.point(3, "inc")
	s.Program.Must(t, nil, "verify", s.Name)
	s.Program.Must(t, nil, "prune", s.Name, "--remove", "check1,check2,diff4", "--compact")
	s.Points, s.state = []testsite.Point{s.Points[2], s.Points[4]}, []map[string][]byte{s.state[2], s.state[4]}
	s.Program.Must(t, nil, "prune", s.Name, "--materialise", "check5")
	s.checkExtras()
	s.Check()
	s.Program.Must(t, nil, "verify", s.Name)
	var listed []manifest.Manifest
	if err := json.Unmarshal([]byte(s.Program.Must(t, nil, "--json", "list", s.Name).Stdout), &listed); err != nil {
		t.Fatal(err)
	}
	if m := listed[0]; m.ID != "check3" || len(m.Merged) != 2 || len(m.Extras) != 3 || !m.Autostart || !m.Disks[0].SourceOptions.Known() {
		t.Errorf("the merged point is %+v", m)
	}
	if m := listed[1]; !m.Synthetic || len(m.Extras) != 2 {
		t.Errorf("the point that was made standalone is %+v", m)
	}
}

// damagedExtra flips a byte of variables: verify names the one point that it breaks, whose disks
// restore all the same.
func (s *extrasSite) damagedExtra() {
	s.T.Helper()
	path := filepath.Join(s.Repo, s.Name, "check2", "nvram.fd")
	testsite.Flip(s.T, path, 1000)
	r := s.Program.Must(s.T, []int{5}, "--json", "verify", s.Name)
	var report verify.Report
	if err := json.Unmarshal([]byte(r.Stdout), &report); err != nil {
		s.T.Fatal(err)
	}
	if len(report.Damage) != 1 || report.Damage[0].File != s.Name+"/check2/nvram.fd" || !slices.Equal(report.Damage[0].Breaks, []string{"check2"}) {
		s.T.Errorf("damage %+v", report.Damage)
	}
	for _, p := range report.Domains[0].Points {
		if p.Restores != (p.ID != "check2") || len(p.LostDisks) > 0 {
			s.T.Errorf("%+v", p)
		}
	}
	dir := filepath.Join(s.Dir, "damaged")
	r = s.Program.Must(s.T, []int{5}, "restore", s.Name+"@check2", "--to", dir)
	if !strings.Contains(r.Stderr, "nvram.fd") || !strings.Contains(r.Stderr, "--disk vda") {
		s.T.Errorf("the restore says %s", r.Stderr)
	}
	r = s.Program.Must(s.T, []int{3}, "--json", "restore", s.Name+"@check2", "--to", dir, "--disk", "vda")
	var result restore.Result
	if err := json.Unmarshal([]byte(r.Stdout), &result); err != nil {
		s.T.Fatal(err)
	}
	testdomain.Same(s.T, result.Disks[0].Image, "qcow2", s.Points[1].Truth["vda"])
	if _, err := os.Stat(filepath.Join(dir, "nvram.fd")); !os.IsNotExist(err) || len(result.Extras) != 2 {
		s.T.Errorf("damaged variables were restored: %v, %+v", err, result.Extras)
	}
	testsite.Flip(s.T, path, 1000)
	s.Program.Must(s.T, nil, "verify", s.Name)
	if err := os.RemoveAll(dir); err != nil {
		s.T.Fatal(err)
	}
}

// The state of a TPM is not stored while the domain runs: the first point of a chain warns. With
// the domain off it is, and so are UEFI variables that only libvirt knows the place of.
func TestTPM(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.DefineWith(t, "<boot dev='hd'/>", `<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>`,
		testdomain.Disk{Target: "vda", Size: 4 << 20}))
	s.Redefine("<os>", "<os firmware='efi'>")
	s.Start()
	const words = "the state of the domain's TPM is not in the point, because the domain runs"
	full := s.BackUp(3, "full")
	testsite.WantSaid(t, full.Warnings, words)
	inc := s.BackUp(0, "inc")
	testsite.WantSaid(t, inc.Notes, words)
	if len(full.Point.Extras) != 1 || len(inc.Point.Extras) != 1 {
		t.Errorf("extras %+v, %+v, want the UEFI variables alone", full.Point.Extras, inc.Point.Extras)
	}
	s.Destroy()
	off := s.Add(s.Program.Must(t, nil, "--json", "inc", s.Name), nil).Point
	state := "/var/lib/libvirt/swtpm/" + s.UUID + "/tpm2"
	nvram, tpm := off.ExtrasOf(manifest.ExtraNVRAM), off.ExtrasOf(manifest.ExtraTPM)
	if len(nvram) != 1 || len(tpm) != 1 || tpm[0].Path != state {
		t.Fatalf("extras of a domain that is off: %+v", off.Extras)
	}
	to := testdomain.TempDir(t)
	s.Program.Must(t, nil, "--quiet", "restore", s.Name, "--to", filepath.Join(to, "restored"))
	testdomain.Tool(t, "cmp", filepath.Join(to, "restored", "nvram.fd"), nvram[0].Path)
	testdomain.Tool(t, "tar", "-C", to, "-xf", filepath.Join(to, "restored", "tpm.tar"))
	testdomain.Tool(t, "cmp", filepath.Join(to, "tpm2-00.permall"), filepath.Join(state, "tpm2-00.permall"))
	s.Start()
	testsite.WantSaid(t, s.BackUp(0, "inc").Notes, words)
}
