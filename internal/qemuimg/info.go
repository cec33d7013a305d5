package qemuimg

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
)

// Image is one image file, as its header describes it.
type Image struct {
	Path        string // absolute
	Format      string // qcow2, raw, …
	VirtualSize int64  // bytes
	ActualSize  int64  // bytes that it occupies on the host
	Backing     string // path of its backing file, absolute; "" if it has none
	// BackingFormat is the format of the backing file as the header records it; "" if it does
	// not: then QEMU would guess it from content that the guest may have written
	// (CVE-2010-2237).
	BackingFormat string
	Encrypted     bool
	Dirty         bool   // it was not closed cleanly
	QCOW2         *QCOW2 // nil for another format
}

// QCOW2 is what is special about a qcow2 image.
type QCOW2 struct {
	Compat          string // "0.10" (version 2), "1.1" (version 3)
	ClusterSize     int64  // bytes
	RefcountBits    int
	CompressionType string // zlib, zstd
	LazyRefcounts   bool
	ExtendedL2      bool
	DataFile        string // name of its external data file; "" if it has none
	DataFileRaw     bool
	Corrupt         bool
	Bitmaps         []Bitmap
	Snapshots       int // internal ones
}

// Bitmap is a persistent dirty bitmap.
type Bitmap struct {
	Name        string
	Granularity int64 // bytes
	Auto        bool  // it records whenever the image is open
	InUse       bool  // it was not stored: its content is lost
}

// Valid says whether the bitmap shows all that was written since it was made.
func (b Bitmap) Valid() bool { return b.Auto && !b.InUse }

// Bitmap returns the bitmap with that name.
func (i Image) Bitmap(name string) (Bitmap, bool) {
	if i.QCOW2 == nil {
		return Bitmap{}, false
	}
	n := slices.IndexFunc(i.QCOW2.Bitmaps, func(b Bitmap) bool { return b.Name == name })
	if n < 0 {
		return Bitmap{}, false
	}
	return i.QCOW2.Bitmaps[n], true
}

// BitmapNames are the names of the bitmaps of an image; not nil.
func (i Image) BitmapNames() []string {
	names := []string{}
	if i.QCOW2 != nil {
		for _, b := range i.QCOW2.Bitmaps {
			names = append(names, b.Name)
		}
	}
	return names
}

// Chain describes an image of the given format and its backing files, the top one first.
// Without force, it fails with [ErrLocked] if another process has one of them open for writing.
//
//	qemu-img info --output=json --backing-chain [-U] -f FORMAT PATH
func Chain(ctx context.Context, path, format string, force bool) ([]Image, error) {
	args := []string{"info", "--output=json", "--backing-chain", "-f", format}
	if force {
		args = append(args, "-U")
	}
	if !filepath.IsAbs(path) { // a name with ":" would be that of a protocol
		return nil, fmt.Errorf("%s is not an absolute path", path)
	}
	out, err := run(ctx, append(args, "--", path)...)
	if err != nil {
		return nil, err
	}
	images, err := parseChain(out)
	if err != nil {
		return nil, fmt.Errorf("what qemu-img says about %s: %w", path, err)
	}
	return images, nil
}

// parseChain reads the output of qemu-img info --output=json --backing-chain (ImageInfo in
// qapi/block-core.json).
func parseChain(out []byte) ([]Image, error) {
	var list []info
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("it describes no image")
	}
	images := make([]Image, len(list))
	for i, raw := range list {
		images[i] = raw.image()
	}
	return images, nil
}

type info struct {
	Filename        string `json:"filename"`
	Format          string `json:"format"`
	VirtualSize     int64  `json:"virtual-size"`
	ActualSize      int64  `json:"actual-size"`
	Encrypted       bool   `json:"encrypted"`
	Dirty           bool   `json:"dirty-flag"`
	ClusterSize     int64  `json:"cluster-size"`
	Backing         string `json:"backing-filename"`
	FullBacking     string `json:"full-backing-filename"`
	BackingFormat   string `json:"backing-filename-format"`
	Snapshots       []any  `json:"snapshots"`
	FormatSpecifics struct {
		Type string `json:"type"`
		Data struct {
			Compat          string `json:"compat"`
			CompressionType string `json:"compression-type"`
			LazyRefcounts   bool   `json:"lazy-refcounts"`
			RefcountBits    int    `json:"refcount-bits"`
			ExtendedL2      bool   `json:"extended-l2"`
			Corrupt         bool   `json:"corrupt"`
			DataFile        string `json:"data-file"`
			DataFileRaw     bool   `json:"data-file-raw"`
			Bitmaps         []struct {
				Name        string   `json:"name"`
				Granularity int64    `json:"granularity"`
				Flags       []string `json:"flags"`
			} `json:"bitmaps"`
		} `json:"data"`
	} `json:"format-specific"`
}

func (raw info) image() Image {
	image := Image{
		Path: raw.Filename, Format: raw.Format, VirtualSize: raw.VirtualSize, ActualSize: raw.ActualSize,
		Backing: raw.FullBacking, BackingFormat: raw.BackingFormat, Encrypted: raw.Encrypted, Dirty: raw.Dirty,
	}
	if image.Backing == "" {
		image.Backing = raw.Backing
	}
	if raw.FormatSpecifics.Type != "qcow2" {
		return image
	}
	data := raw.FormatSpecifics.Data
	image.QCOW2 = &QCOW2{
		Compat: data.Compat, ClusterSize: raw.ClusterSize, RefcountBits: data.RefcountBits, CompressionType: data.CompressionType,
		LazyRefcounts: data.LazyRefcounts, ExtendedL2: data.ExtendedL2, DataFile: data.DataFile, DataFileRaw: data.DataFileRaw,
		Corrupt: data.Corrupt, Snapshots: len(raw.Snapshots),
	}
	for _, b := range data.Bitmaps {
		image.QCOW2.Bitmaps = append(image.QCOW2.Bitmaps, Bitmap{
			Name: b.Name, Granularity: b.Granularity,
			Auto: slices.Contains(b.Flags, "auto"), InUse: slices.Contains(b.Flags, "in-use"),
		})
	}
	return image
}
