package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// goodHeader is the first cluster of an image with a backing file.
func goodHeader() []byte {
	p := make([]byte, 4096)
	copy(p, Header{
		Version: 3, ClusterSize: 4096, VirtualSize: 10 << 20,
		BackingFile: "../check1/vda.qcow2", BackingFormat: "qcow2",
		L1Entries: 5, L1Offset: 4096,
		RefcountTableOffset: 8192, RefcountTableClusters: 1, RefcountOrder: 4,
	}.Encode())
	return p
}

func TestReadHeaderRefuses(t *testing.T) {
	u32 := binary.BigEndian.PutUint32
	u64 := binary.BigEndian.PutUint64
	for _, test := range []struct {
		name   string
		damage func(p []byte)
		want   string
	}{
		{"version", func(p []byte) { u32(p[4:], 4) }, "version 4"},
		{"small clusters", func(p []byte) { u32(p[20:], 8) }, "cluster_bits 8"},
		{"large clusters", func(p []byte) { u32(p[20:], 22) }, "cluster_bits 22"},
		{"size", func(p []byte) { u64(p[24:], 1<<63) }, "virtual size"},
		{"size against L1", func(p []byte) { u64(p[24:], 10<<20+512) }, "L1 table of 5 entries"},
		{"huge L1", func(p []byte) { u32(p[36:], 1<<31) }, "L1 table of 2147483648 entries"},
		{"L1 misaligned", func(p []byte) { u64(p[40:], 4097) }, "L1 table is not"},
		{"L1 over the header", func(p []byte) { u64(p[40:], 0) }, "L1 table lies"},
		{"refcount table misaligned", func(p []byte) { u64(p[48:], 100) }, "refcount table is not"},
		{"no refcount table", func(p []byte) { u64(p[48:], 0) }, "refcount table is not"},
		{"refcount table far away", func(p []byte) { u64(p[48:], 1<<63) }, "refcount table is not"},
		{"empty refcount table", func(p []byte) { u32(p[56:], 0) }, "refcount table of 0"},
		{"huge refcount table", func(p []byte) { u32(p[56:], 1<<30) }, "refcount table of 1073741824"},
		{"snapshots misaligned", func(p []byte) { u32(p[60:], 1); u64(p[64:], 1) }, "snapshot table"},
		{"encryption", func(p []byte) { u32(p[32:], 3) }, "encryption method 3"},
		{"unknown feature", func(p []byte) { u64(p[72:], 1<<40) }, "incompatible features 0x10000000000"},
		{"compression without the feature", func(p []byte) { p[104] = 1 }, "compression type 1"},
		{"feature without compression", func(p []byte) { u64(p[72:], 1<<3) }, "compression type 0"},
		{"unknown compression", func(p []byte) { p[104] = 2 }, "compression type 2"},
		{"refcount order", func(p []byte) { u32(p[96:], 7) }, "refcount_order 7"},
		{"short header", func(p []byte) { u32(p[100:], 96) }, "header_length 96"},
		{"odd header", func(p []byte) { u32(p[100:], 113) }, "header_length 113"},
		{"long header", func(p []byte) { u32(p[100:], 1<<31) }, "header_length 2147483648"},
		{"long name", func(p []byte) { u32(p[16:], 1024) }, "name of 1024 bytes"},
		{"name across the end", func(p []byte) { u64(p[8:], 4090) }, "at offset 4090"},
		{"name far away", func(p []byte) { u64(p[8:], 1<<63) }, "at offset 9223372036854775808"},
		{"name over the header", func(p []byte) { u64(p[8:], 80) }, "at offset 80"},
		{"NUL in the name", func(p []byte) { p[150] = 0 }, "NUL"},
		{"long extension", func(p []byte) { u32(p[116:], 1<<31) }, "extension 0xe2792aca"},
		{"long format", func(p []byte) { u32(p[116:], 16) }, "backing format"},
		{"NUL in the format", func(p []byte) { p[121] = 0 }, "backing format"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := goodHeader()
			test.damage(p)
			_, err := ReadHeader(bytes.NewReader(p))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q in it", err, test.want)
			}
		})
	}
}

// However short the file is, there is an error and no panic.
func TestReadHeaderOfTornFiles(t *testing.T) {
	p := goodHeader()
	name := int(binary.BigEndian.Uint64(p[8:])) + int(binary.BigEndian.Uint32(p[16:]))
	for n := range name {
		_, err := ReadHeader(bytes.NewReader(p[:n]))
		if err == nil {
			t.Fatalf("no error with %d bytes", n)
		}
		if n < headerV2Length && !errors.Is(err, ErrNotQcow2) {
			t.Fatalf("%d bytes: error %v", n, err)
		}
	}
	if _, err := ReadHeader(bytes.NewReader(p[:name])); err != nil {
		t.Error(err)
	}
}

// An image that should not be used as it is can be read, and says so.
func TestReadHeaderFlags(t *testing.T) {
	p := goodHeader()
	p[79] = IncompatibleDirty | IncompatibleCorrupt | IncompatibleExternalData
	h, err := ReadHeader(bytes.NewReader(p))
	if err != nil || !h.Dirty() || !h.Corrupt() || !h.ExternalData() {
		t.Errorf("header %+v, error %v", h, err)
	}
}

type brokenReader struct{ err error }

func (r brokenReader) ReadAt([]byte, int64) (int, error) { return 0, r.err }

func TestReadHeaderReportsReadErrors(t *testing.T) {
	want := errors.New("input/output error")
	if _, err := ReadHeader(brokenReader{want}); !errors.Is(err, want) {
		t.Errorf("error %v", err)
	}
}

// What QEMU writes is read as QEMU means it.
func TestReadHeaderOfQemusImages(t *testing.T) {
	dir := t.TempDir()
	newSparseModel(t, filepath.Join(dir, "b.raw"), 1<<30)
	for _, test := range []struct {
		args []string
		want Header
	}{
		{[]string{"-o", "compat=0.10"}, Header{Version: 2, ClusterSize: 64 << 10}},
		{[]string{"-o", "compat=1.1,cluster_size=512"}, Header{Version: 3, ClusterSize: 512}},
		{[]string{"-o", "cluster_size=2M,compression_type=zstd"}, Header{Version: 3, ClusterSize: 2 << 20, Incompatible: IncompatibleCompression, Compression: 1}},
		{[]string{"-o", "extended_l2=on"}, Header{Version: 3, ClusterSize: 64 << 10, Incompatible: IncompatibleExtendedL2}},
		{[]string{"-o", "data_file=" + filepath.Join(dir, "data")}, Header{Version: 3, ClusterSize: 64 << 10, Incompatible: IncompatibleExternalData, DataFile: filepath.Join(dir, "data")}},
		{[]string{"-o", "data_file_raw=on,data_file=" + filepath.Join(dir, "data")}, Header{Version: 3, ClusterSize: 64 << 10, Incompatible: IncompatibleExternalData,
			Autoclear: AutoclearRawExternalData, DataFile: filepath.Join(dir, "data")}},
		{[]string{"-o", "lazy_refcounts=on"}, Header{Version: 3, ClusterSize: 64 << 10, Compatible: CompatibleLazyRefcounts}},
		{[]string{"-b", "b.raw", "-F", "raw"}, Header{Version: 3, ClusterSize: 64 << 10, BackingFile: "b.raw", BackingFormat: "raw"}},
		{[]string{"-o", "compat=0.10", "-b", "b.raw", "-F", "raw"}, Header{Version: 2, ClusterSize: 64 << 10, BackingFile: "b.raw", BackingFormat: "raw"}},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			path := filepath.Join(dir, "a.qcow2")
			qemuImg(t, append(append([]string{"create", "-q", "-f", "qcow2"}, test.args...), path, "1G")...)
			h := readHeaderOf(t, path)
			got := Header{
				Version: h.Version, ClusterSize: h.ClusterSize, BackingFile: h.BackingFile, BackingFormat: h.BackingFormat,
				Incompatible: h.Incompatible, Compatible: h.Compatible, Autoclear: h.Autoclear, Compression: h.Compression, DataFile: h.DataFile,
			}
			if !reflect.DeepEqual(got, test.want) || h.VirtualSize != 1<<30 {
				t.Errorf("header %+v, want %+v", h, test.want)
			}
			if h.ExternalData() != (h.Incompatible == IncompatibleExternalData) || h.Dirty() || h.Corrupt() {
				t.Errorf("header %+v: flags", h)
			}
		})
	}
}

func readHeaderOf(t *testing.T, path string) Header {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := ReadHeader(f)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// FuzzReadHeader: whatever the bytes, there is no panic, and what passes is
// within the bounds that callers rely on. A header that passes and that the
// Writer could have made reads the same once written again.
func FuzzReadHeader(f *testing.F) {
	f.Add(goodHeader())
	f.Add(goodHeader()[:200])
	v2 := goodHeader()
	binary.BigEndian.PutUint32(v2[4:], 2)
	f.Add(v2)
	noEnd := bytes.ReplaceAll(goodHeader(), make([]byte, 8), []byte("\x12\x34\x56\x78\x00\x00\x00\x00"))
	f.Add(noEnd)
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, p []byte) {
		h, err := ReadHeader(bytes.NewReader(p))
		if err != nil {
			if !reflect.DeepEqual(h, Header{}) {
				t.Errorf("a header with the error %v", err)
			}
			return
		}
		if h.ClusterSize < 512 || h.ClusterSize > 2<<20 || h.VirtualSize < 0 ||
			len(h.BackingFile) > maxBackingName || len(h.BackingFormat) > maxBackingFormat {
			t.Errorf("header %+v is out of bounds", h)
		}
		if h.ClusterSize < minClusterSize || h.Version != 3 || h.Snapshots != 0 || h.Encryption != 0 {
			return
		}
		h.SnapshotsOffset = 0
		again, err := ReadHeader(bytes.NewReader(h.Encode()))
		if err != nil || !reflect.DeepEqual(again, h) {
			t.Errorf("header %+v reads back as %+v, error %v", h, again, err)
		}
	})
}
