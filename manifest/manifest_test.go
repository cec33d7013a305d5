package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/digest"
)

const (
	exampleRepository = "0b6a2c2e-9a43-4d1c-8d6c-1f3b5b1d7a11"
	exampleDomainUUID = "5d5a1f4e-3a3b-4a57-9d2e-6c0a6d1b2c33"
	exampleIdentity   = "0123456789abcdef"
)

// testManifest is a valid manifest of an incremental with one disk.
func testManifest() Manifest {
	instant := time.Date(2024, 5, 6, 7, 8, 9, 123456789, time.UTC)
	return Manifest{
		Format: 2, Repository: exampleRepository, ID: "check2", Identity: exampleIdentity, Kind: KindInc,
		Parent: "check1", ParentIdentity: "fedcba9876543210", Checkpoint: "check2." + exampleIdentity,
		Domain: "vm1", DomainUUID: exampleDomainUUID, Time: instant, Finished: instant.Add(time.Minute),
		Consistency: ConsistencyFilesystem, Versions: Versions{"1.0", "10.0.0", "8.2.2"},
		Disks: []Disk{{
			Target: "vda", Image: "vda.qcow2", Kind: KindInc, Parent: "../check1/vda.qcow2", VirtualSize: 1 << 30,
			Source: "/images/vm1.qcow2", SourceFormat: "qcow2", DataBytes: 65536, ImageBytes: 327680,
			Hashes:        digest.Of([]byte("list")),
			SourceOptions: SourceOptions{Compat: "1.1", ClusterSize: 65536, RefcountBits: 16, CompressionType: "zlib"},
		}},
		Extras: []Extra{{Kind: ExtraNVRAM, File: "nvram.fd", Path: "/nvram/vm1_VARS.fd", Format: "raw", Size: 540672, Mode: "0600", UID: 64055}},
		Files:  map[string]string{"domain.xml": digest.Of([]byte("<domain/>")), "nvram.fd": digest.Of([]byte("variables"))},
	}
}

func encode(t testing.TB, m Manifest) []byte {
	t.Helper()
	data, err := Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestManifestRoundTrip(t *testing.T) {
	m := testManifest()
	data := encode(t, m)
	if !json.Valid(data) || !bytes.HasSuffix(data, []byte("}\n")) {
		t.Errorf("not JSON:\n%s", data)
	}
	got, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, m) {
		t.Errorf("got %+v\nwant %+v", got, m)
	}
}

// docs/format.md says how to check the digest with head and b3sum.
func TestManifestDigestLengthIsDocumented(t *testing.T) {
	if digest.TailLength != 90 {
		t.Errorf("the digest takes %d bytes, docs/format.md says 90", digest.TailLength)
	}
}

func TestManifestEveryFlippedByteIsSeen(t *testing.T) {
	data := encode(t, testManifest())
	for i := range data {
		data[i] ^= 1
		if _, err := Parse(data); err == nil || errors.Is(err, ErrNewerFormat) {
			t.Errorf("flipped byte %d: %v, want damage", i, err)
		}
		data[i] ^= 1
	}
	for n := range data {
		if _, err := Parse(data[:n]); err == nil {
			t.Errorf("truncation to %d bytes was not seen", n)
		}
	}
}

func TestManifestIgnoresFieldsOfLaterVersions(t *testing.T) {
	data := encode(t, testManifest())
	body := bytes.Replace(data[:len(data)-digest.TailLength], []byte("{\n"), []byte("{\n  \"color\": \"blue\",\n"), 1)
	if _, err := Parse(append(body, digest.Tail(body)...)); err != nil {
		t.Error(err)
	}
}

func TestManifestOfANewerFormatSaysSo(t *testing.T) {
	m := testManifest()
	m.Format = Format + 1
	data, err := Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(data); !errors.Is(err, ErrNewerFormat) || !strings.Contains(err.Error(), "newer virtbackup") {
		t.Errorf("got %v", err)
	}
}

func TestValidateRefuses(t *testing.T) {
	tests := map[string]func(m *Manifest){
		"format":                   func(m *Manifest) { m.Format = 0 },
		"no identity":              func(m *Manifest) { m.Identity = "" },
		"bad identity":             func(m *Manifest) { m.Identity = "0123456789ABCDEF" },
		"other checkpoint":         func(m *Manifest) { m.Checkpoint = "check2" },
		"bad parent identity":      func(m *Manifest) { m.ParentIdentity = "x" },
		"identity in format 1":     func(m *Manifest) { m.Format, m.Checkpoint = 1, "" },
		"repository":               func(m *Manifest) { m.Repository = "x" },
		"uuid":                     func(m *Manifest) { m.DomainUUID = strings.Repeat("x", 36) },
		"domain leads outside":     func(m *Manifest) { m.Domain = "../vm1" },
		"id":                       func(m *Manifest) { m.ID = "check02" },
		"kind":                     func(m *Manifest) { m.Kind = "other" },
		"kind and id":              func(m *Manifest) { m.ID = "diff2" },
		"time":                     func(m *Manifest) { m.Time = time.Time{} },
		"consistency":              func(m *Manifest) { m.Consistency = "" },
		"checkpoint":               func(m *Manifest) { m.Checkpoint = "a/b" },
		"inc without parent":       func(m *Manifest) { m.Parent = "" },
		"full with parent":         func(m *Manifest) { m.Kind = KindFull },
		"parent is a diff":         func(m *Manifest) { m.Parent = "diff1" },
		"own parent":               func(m *Manifest) { m.Parent = "check2"; m.Disks[0].Parent = "../check2/vda.qcow2" },
		"younger parent":           func(m *Manifest) { m.Parent = "check3"; m.Disks[0].Parent = "../check3/vda.qcow2" },
		"target":                   func(m *Manifest) { m.Disks[0].Target = "a/b" },
		"image leads outside":      func(m *Manifest) { m.Disks[0].Image = "../check1/vda.qcow2" },
		"image absolute":           func(m *Manifest) { m.Disks[0].Image = "/vda.qcow2" },
		"image is the manifest":    func(m *Manifest) { m.Disks[0].Image = FileName },
		"disk kind":                func(m *Manifest) { m.Disks[0].Kind = KindDiff },
		"full disk with parent":    func(m *Manifest) { m.Disks[0].Kind = KindFull },
		"inc disk without parent":  func(m *Manifest) { m.Disks[0].Parent = "" },
		"parent image elsewhere":   func(m *Manifest) { m.Disks[0].Parent = "../../vm2/check1/vda.qcow2" },
		"parent image absolute":    func(m *Manifest) { m.Disks[0].Parent = "/check1/vda.qcow2" },
		"parent image with dots":   func(m *Manifest) { m.Disks[0].Parent = "../check1/.." },
		"parent image not normal":  func(m *Manifest) { m.Disks[0].Parent = ".././check1/vda.qcow2" },
		"parent image other point": func(m *Manifest) { m.Parent = "check1"; m.Disks[0].Parent = "../check0/vda.qcow2" },
		"many backing files":       func(m *Manifest) { m.Disks[0].SourceBackingIDs = make([]string, maxBackingIDs+1) },
		"long id of backing file":  func(m *Manifest) { m.Disks[0].SourceBackingIDs = []string{strings.Repeat("x", maxBackingID+1)} },
		"virtual size":             func(m *Manifest) { m.Disks[0].VirtualSize = -1 },
		"data bytes":               func(m *Manifest) { m.Disks[0].DataBytes = -1 },
		"zero bytes":               func(m *Manifest) { m.Disks[0].ZeroBytes = -1 },
		"image bytes":              func(m *Manifest) { m.Disks[0].ImageBytes = -1 },
		"hashes":                   func(m *Manifest) { m.Disks[0].Hashes = "sha256:00" },
		"disk twice":               func(m *Manifest) { m.Disks = append(m.Disks, m.Disks[0]) },
		"file leads outside":       func(m *Manifest) { m.Files["../x"] = m.Disks[0].Hashes },
		"file is an image":         func(m *Manifest) { m.Files["vda.hashes"] = m.Disks[0].Hashes },
		"file digest":              func(m *Manifest) { m.Files["x"] = "blake3:" + strings.Repeat("G", 64) },
		"extra without a digest":   func(m *Manifest) { m.Extras[0].File = "other.fd" },
		"extra leads outside":      func(m *Manifest) { m.Extras[0].File = "../nvram.fd"; m.Files["../nvram.fd"] = m.Files["nvram.fd"] },
		"extra is a document":      func(m *Manifest) { m.Extras[0].File = DomainXML },
		"extra is an image":        func(m *Manifest) { m.Extras[0].File = "vda.qcow2" },
		"extra twice":              func(m *Manifest) { m.Extras = append(m.Extras, m.Extras[0]) },
		"extra without a kind":     func(m *Manifest) { m.Extras[0].Kind = "" },
		"extra of an odd kind":     func(m *Manifest) { m.Extras[0].Kind = "a b" },
		"extra of an odd format":   func(m *Manifest) { m.Extras[0].Format = "raw,file=x" },
		"extra from nowhere":       func(m *Manifest) { m.Extras[0].Path = "nvram.fd" },
		"extra from two lines":     func(m *Manifest) { m.Extras[0].Path = "/a\nb" },
		"extra size":               func(m *Manifest) { m.Extras[0].Size = -1 },
		"extra mode":               func(m *Manifest) { m.Extras[0].Mode = "rw" },
		"extra with set-user-ID":   func(m *Manifest) { m.Extras[0].Mode = "04755" },
		"extra owner":              func(m *Manifest) { m.Extras[0].UID = -1 },
		"compat":                   func(m *Manifest) { m.Disks[0].SourceOptions.Compat = "1.1,size=1" },
		"cluster size":             func(m *Manifest) { m.Disks[0].SourceOptions.ClusterSize = 65537 },
		"refcount bits":            func(m *Manifest) { m.Disks[0].SourceOptions.RefcountBits = 3 },
		"compression type":         func(m *Manifest) { m.Disks[0].SourceOptions.CompressionType = "lz4" },
		"gone":                     func(m *Manifest) { m.Gone = []string{".."} },
	}
	valid := testManifest()
	if err := valid.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range tests {
		m := testManifest()
		spoil(&m)
		if m.Validate() == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, err := Parse(encode(t, m)); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
}

// FuzzManifest feeds content whose digest is right, so that the fuzzer gets
// past it: what is accepted must keep all names inside the repository and must
// survive a round trip.
func FuzzManifest(f *testing.F) {
	data := encode(f, testManifest())
	f.Add(data[:len(data)-digest.TailLength])
	f.Add([]byte(`{"format":1`))
	f.Fuzz(func(t *testing.T, body []byte) {
		Parse(body)
		m, err := Parse(slices.Concat(body, []byte(digest.Tail(body))))
		if err != nil {
			return
		}
		for _, d := range m.Disks {
			checkInside(t, d.Image)
			checkInside(t, d.HashesFile())
			if id, image, _ := d.ParentImage(); id != "" {
				checkInside(t, id)
				checkInside(t, image)
				if d.Parent != ParentPath(id, image) {
					t.Errorf("parent %q is not %q", d.Parent, ParentPath(id, image))
				}
			}
		}
		for name := range m.Files {
			checkInside(t, name)
		}
		for _, e := range m.Extras {
			checkInside(t, e.File)
			if m.Files[e.File] == "" || e.Perm()&^0o777 != 0 || e.Path != "" && e.Path[0] != '/' {
				t.Errorf("extra %+v was accepted", e)
			}
		}
		again, err := Parse(encode(t, m))
		if err != nil || !again.Time.Equal(m.Time) || len(again.Disks) != len(m.Disks) {
			t.Errorf("round trip: %v", err)
		}
	})
}

func checkInside(t *testing.T, name string) {
	t.Helper()
	if name == "" || name[0] == '.' || strings.ContainsAny(name, "/\x00") {
		t.Errorf("name %q was accepted", name)
	}
}
