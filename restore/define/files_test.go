package define

import (
	"archive/tar"
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/guest/qemuuser"
	"github.com/virtbackup/virtbackup/internal/digest"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/xml/adapt"
)

const uuidOfPoint = "11111111-2222-4333-8444-555555555555"

// newDefiner is a restore of a point that has files besides its disks, by name.
func newDefiner(t *testing.T, files map[string][]byte, extras ...manifest.Extra) *definer {
	t.Helper()
	repo, err := repository.Create(filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	d := &definer{repo: repo, Request: Request{Request: restore.Request{Domain: "vm1", Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}},
		tpmDir: t.TempDir(), now: time.Now}
	d.point = manifest.Manifest{ID: "check1", Domain: "vm1", DomainUUID: uuidOfPoint, Time: time.Now().Add(-time.Hour), Extras: extras, Files: map[string]string{}}
	d.adapted = adapt.Result{UUID: uuidOfPoint}
	if err := os.MkdirAll(repo.PointDir("vm1", "check1"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		d.point.Files[name] = digest.Of(data)
		write(t, filepath.Join(repo.PointDir("vm1", "check1"), name), string(data))
	}
	return d
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, path, content string) {
	t.Helper()
	if got, err := os.ReadFile(path); string(got) != content || err != nil && content != "" {
		t.Errorf("%s has %q, %v, want %q", path, got, err, content)
	}
}

// The XML is to refer to the restored files, by what they were; QEMU's user gets them, with
// the modes that they had.
func TestFiles(t *testing.T) {
	d := newDefiner(t, nil,
		manifest.Extra{Kind: manifest.ExtraNVRAM, File: "nvram.fd", Format: "qcow2", Path: "/n", Mode: "0600"},
		manifest.Extra{Kind: manifest.ExtraKernel, File: "kernel", Path: "/boot/k", Mode: "0644"},
		manifest.Extra{Kind: manifest.ExtraTPM, File: "tpm", Path: "/srv/tpm"},
		manifest.Extra{Kind: manifest.ExtraInitrd, File: "initrd"})
	request := d.adaptation()
	if request.NVRAM != (adapt.File{Path: filepath.Join(d.Dir, "nvram.fd"), Format: "qcow2"}) || request.TPM || len(request.Files) != 2 ||
		request.Files["/boot/k"] != filepath.Join(d.Dir, "kernel") || request.Files["/srv/tpm"] != filepath.Join(d.Dir, "tpm") {
		t.Errorf("the XML is to refer to %+v", request)
	}
	restored := &restore.Result{Disks: []restore.Disk{{Image: filepath.Join(d.Dir, "vda.raw")}}}
	write(t, restored.Disks[0].Image, "")
	for _, e := range d.point.Extras[:2] {
		write(t, d.inDir(e), "")
		restored.Extras = append(restored.Extras, restore.Extra{Extra: e, Restored: d.inDir(e)})
	}
	if os.Geteuid() == 0 {
		d.owner = &qemuuser.User{UID: 12345, GID: 12346}
	}
	if err := d.giveToQEMU(restored); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"vda.raw": 0o600, "nvram.fd": 0o600, "kernel": 0o644} {
		info, err := os.Stat(filepath.Join(d.Dir, name))
		if err != nil || info.Mode().Perm() != mode || d.owner != nil && info.Sys().(*syscall.Stat_t).Uid != 12345 {
			t.Errorf("%s: %v %v %v", name, info.Mode(), info.Sys(), err)
		}
	}
}

func archiveOf(t *testing.T, name, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o600}); err != nil {
		t.Fatal(err)
	}
	w.Write([]byte(content))
	w.Close()
	return b.Bytes()
}

// The state of a TPM goes to where libvirt keeps it. One that is there is set aside, and comes
// back if the restore fails.
func TestTPM(t *testing.T) {
	const file = "tpm2-00.permall"
	for path, name := range map[string]string{"/var/lib/libvirt/swtpm/x/tpm2": "tpm2", "/var/lib/libvirt/swtpm/x/tpm1.2": "tpm1.2", "/srv/tpm": "tpm2"} {
		d := newDefiner(t, map[string][]byte{"tpm.tar": archiveOf(t, file, "of the point")}, manifest.Extra{Kind: manifest.ExtraTPM, File: "tpm.tar", Path: path, Format: "tar"})
		if request := d.adaptation(); !request.TPM || len(request.Files) > 0 {
			t.Errorf("the XML is to refer to %+v", request)
		}
		write(t, filepath.Join(d.Dir, "tpm.tar"), "")
		restored := &restore.Result{Extras: []restore.Extra{{Extra: d.point.Extras[0]}, {}}}
		state := filepath.Join(d.tpmDir, uuidOfPoint, name, file)
		write(t, state, "of now")
		if err := d.putTPM(t.Context(), restored); err != nil {
			t.Fatal(err)
		}
		want(t, state, "of the point")
		want(t, filepath.Join(d.Dir, "tpm.tar"), "")
		if len(restored.Extras) != 1 {
			t.Errorf("restored besides: %+v", restored.Extras)
		}
		want(t, filepath.Join(d.aside, name, file), "of now")
		if len(d.result.Changes) != 1 || !strings.Contains(d.result.Changes[0], d.aside) {
			t.Errorf("told %q", d.result.Changes)
		}
		if err := d.undoTPM(uuidOfPoint); err != nil {
			t.Fatal(err)
		}
		want(t, state, "of now")
		if entries, _ := os.ReadDir(d.tpmDir); len(entries) != 1 {
			t.Errorf("left %v", entries)
		}
	}
}

// What a killed restore has put is removed if it was for another domain; the domain's own
// state stays, whoever put it.
func TestUndoTPMOfAKilledRestore(t *testing.T) {
	d := newDefiner(t, nil)
	write(t, filepath.Join(d.tpmDir, uuidOfPoint, "tpm2", "state"), "own")
	write(t, filepath.Join(d.tpmDir, "other", "tpm2", "state"), "other")
	for _, uuid := range []string{uuidOfPoint, "other", "none"} {
		if err := d.undoTPM(uuid); err != nil {
			t.Error(err)
		}
	}
	want(t, filepath.Join(d.tpmDir, uuidOfPoint, "tpm2", "state"), "own")
	want(t, filepath.Join(d.tpmDir, "other", "tpm2", "state"), "")
}

// A state of a TPM that is damaged, and so not restored with --salvage, prevents nothing else,
// and the one that is there stays.
func TestDamagedTPM(t *testing.T) {
	d := newDefiner(t, map[string][]byte{"tpm.tar": archiveOf(t, "tpm2-00.permall", "of the point")}, manifest.Extra{Kind: manifest.ExtraTPM, File: "tpm.tar", Path: "/srv/tpm", Format: "tar"})
	write(t, filepath.Join(d.repo.PointDir("vm1", "check1"), "tpm.tar"), "damaged")
	write(t, filepath.Join(d.tpmDir, uuidOfPoint, "tpm2", "state"), "of now")
	if err := d.putTPM(t.Context(), &restore.Result{}); err != nil {
		t.Error(err)
	}
	want(t, filepath.Join(d.tpmDir, uuidOfPoint, "tpm2", "state"), "of now")
}
