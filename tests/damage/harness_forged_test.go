package damage

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zeebo/blake3"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

func digest(data []byte) string {
	sum := blake3.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// forge edits a manifest and gives it a valid digest.
func forge(path, from, to string) error {
	const tail = 90 // docs/format.md
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	body := data[:len(data)-tail]
	if !bytes.Contains(body, []byte(from)) {
		return fmt.Errorf("%s has no %q", path, from)
	}
	body = bytes.Replace(bytes.Clone(body), []byte(from), []byte(to), 1)
	return os.WriteFile(path, fmt.Appendf(body, ",\n  \"digest\": \"blake3:%s\"\n}\n", digest(body)), 0o600)
}

// forged are manifests with edits, as a person or a program might make them.
func forged(s *testsite.Site) (cases []spoiling) {
	edit := func(id, from, to string, lost []string) {
		cases = append(cases,
			spoiling{name: fmt.Sprintf("manifest of %s edited, %q to %q", id, from, to), lost: below[id], spoil: func(b *bed) error {
				data, err := os.ReadFile(b.path(id, "manifest.json"))
				if err != nil {
					return err
				}
				return os.WriteFile(b.path(id, "manifest.json"), bytes.Replace(data, []byte(from), []byte(to), 1), 0o600)
			}},
			spoiling{name: fmt.Sprintf("manifest of %s forged, %q to %q", id, from, to), lost: lost,
				spoil: func(b *bed) error { return forge(b.path(id, "manifest.json"), from, to) }})
	}
	edit("check2", "../check1/vda.qcow2", "../check1/vdb.qcow2", below["check2"])
	edit("check2", "../check1/vda.qcow2", "../../outside/canary", below["check2"])
	edit("check2", "../check1/vda.qcow2", "../../../outside/canary", below["check2"])
	edit("check3", "../check2/vda.qcow2", "../check1/vda.qcow2", below["check3"])
	edit("check3", "../check2/vda.qcow2", "/etc/passwd", below["check3"])
	edit("check3", `"parent": "check2"`, `"parent": "check1"`, below["check3"])
	edit("check3", `"parent": "check2"`, `"parent": "check3"`, below["check3"])
	edit("check2", `"kind": "inc"`, `"kind": "full"`, below["check2"])
	edit("check1", `"kind": "full"`, `"kind": "inc"`, below["check1"])
	edit("diff4", `"virtual_size": 12582912`, `"virtual_size": 12582400`, below["diff4"])
	edit("check1", `"image": "vda.qcow2"`, `"image": "../../outside/canary"`, below["check1"])
	edit("check1", `"image": "vda.qcow2"`, `"image": "vdx.qcow2"`, below["check1"])
	edit("check2", `"domain.xml"`, `"../../../outside/canary"`, below["check2"])
	edit("check1", `"id": "check1"`, `"id": "check2"`, below["check1"])
	edit("check1", s.Name, "vm1", below["check1"])
	edit("check1", s.UUID, "00000000-0000-0000-0000-000000000001", below["check2"])
	edit("check1", `"hashes": "blake3:`, `"hashes": "blake3:0000`, below["check1"])
	edit("check1", `"format": 2`, `"format": 3`, below["check1"])
	// Another point of the same name, as a copy of the repository may have it.
	taken := s.Points[0].Time.Format("2006-01-02T15:04:05")
	edit("check1", `"time": "`+taken, `"time": "1999`+taken[4:], below["check2"])
	return cases
}

// renamed are images whose header names another backing file; hash list and manifest are
// adapted, so that only the name is wrong.
func renamed(s *testsite.Site) (cases []spoiling) {
	names := map[string]func(b *bed) string{
		"up and out":           func(*bed) string { return "../../../outside/canary" },
		"absolute":             func(b *bed) string { return filepath.Join(b.outside, "canary") },
		"json:":                func(b *bed) string { return fmt.Sprintf(`json:{"driver":"file","filename":"%s/canary"}`, b.outside) },
		"json: of a server":    func(b *bed) string { return fmt.Sprintf(`json:{"driver":"nbd","path":"%s/nbd.sock"}`, b.outside) },
		"nbd:":                 func(b *bed) string { return "nbd:unix:" + b.outside + "/nbd.sock" },
		"nbd+unix:":            func(b *bed) string { return "nbd+unix:///?socket=" + b.outside + "/nbd.sock" },
		"file:":                func(b *bed) string { return "file:" + b.outside + "/canary" },
		"another disk":         func(*bed) string { return "../check1/vdb.qcow2" },
		"itself":               func(*bed) string { return "vda.qcow2" },
		"its child":            func(*bed) string { return "../check3/vda.qcow2" },
		"another way about it": func(*bed) string { return "../check2/../check1/vda.qcow2" },
		"none":                 func(*bed) string { return "" },
	}
	for what, name := range names {
		cases = append(cases,
			spoiling{name: "backing file: " + what, lost: below["check2"],
				spoil: func(b *bed) error { return rename(b.path("check2", "vda.qcow2"), name(b)) }},
			spoiling{name: "backing file, with the hashes to match: " + what, lost: below["check2"],
				spoil: func(b *bed) error {
					return errors.Join(rename(b.path("check2", "vda.qcow2"), name(b)), rehash(b.path("check2"), "vda"))
				}})
	}
	return cases
}

// listen opens a socket that nothing may connect to.
func listen(t *testing.T, socket string) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-ended })
	go func() {
		defer close(ended)
		if _, err := l.Accept(); err == nil {
			t.Error("a server that an image names was connected to")
		}
	}()
}

// rename writes another backing file name into the header of an image.
func rename(image, name string) error {
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	var field [12]byte // backing_file_offset, backing_file_size
	if _, err := f.ReadAt(field[:], 8); err != nil {
		return err
	}
	at := int64(binary.BigEndian.Uint64(field[:]))
	binary.BigEndian.PutUint32(field[8:], uint32(len(name)))
	_, err = f.WriteAt(field[:], 8)
	_, err2 := f.WriteAt([]byte(name), at)
	return errors.Join(err, err2, f.Close())
}

// rehash makes a disk's hash list and the manifest agree with its present image, as anyone
// who can write to the repository could. It handles images below 128 MiB, whose lists have
// no tree (docs/format.md).
func rehash(dir, target string) error {
	const unit = 64 << 10
	image, err := os.ReadFile(filepath.Join(dir, target+".qcow2"))
	if err != nil {
		return err
	}
	path := filepath.Join(dir, target+".hashes")
	list, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	recorded := func() string {
		return fmt.Sprintf("\"image_bytes\": %d,\n      \"hashes\": \"blake3:%s", binary.LittleEndian.Uint64(list[24:]), digest(list))
	}
	old := recorded()
	list = list[:32]
	binary.LittleEndian.PutUint64(list[24:], uint64(len(image)))
	for at := 0; at < len(image); at += unit {
		sum := blake3.Sum256(image[at:min(at+unit, len(image))])
		list = append(list, sum[:]...)
	}
	return errors.Join(os.WriteFile(path, list, 0o600), forge(filepath.Join(dir, "manifest.json"), old, recorded()))
}

// replaced are images of other disks or points, with hash lists and manifests that agree
// with them.
func replaced(s *testsite.Site) (cases []spoiling) {
	for what, create := range map[string][]string{
		"an external data file":       {"-o", "data_file=@OUT@/data,data_file_raw=on"},
		"a backing file of its own":   {"-b", "@OUT@/canary", "-F", "qcow2"},
		"a backing file by a command": {"-u", "-b", "json:{\"driver\":\"nbd\",\"path\":\"@OUT@/nbd.sock\"}", "-F", "raw"},
	} {
		cases = append(cases, spoiling{name: "replaced by an image with " + what, lost: below["check1"],
			spoil: func(b *bed) error {
				image := b.path("check1", "vda.qcow2")
				args := []string{"create", "-q", "-f", "qcow2"}
				for _, a := range create {
					args = append(args, strings.ReplaceAll(a, "@OUT@", b.outside))
				}
				err := os.Remove(image)
				testdomain.Tool(b.T, "qemu-img", append(args, image, "12M")...)
				return errors.Join(err, rehash(b.path("check1"), "vda"))
			}})
	}
	return cases
}
