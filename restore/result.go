package restore

import (
	"time"

	"github.com/virtbackup/virtbackup/restore/reading"
)

// Result is what a restore made.
type Result struct {
	Domain  string    `json:"domain"`
	Point   string    `json:"point"`
	Time    time.Time `json:"time"`
	Dir     string    `json:"dir"` // absolute, without symbolic links
	Disks   []Disk    `json:"disks"`
	XML     string    `json:"xml,omitempty"`    // path of the domain's XML as it was at that point; "" where it is damaged
	Extras  []Extra   `json:"extras,omitempty"` // what else the domain needs to start; "restored" is the path
	Seconds float64   `json:"seconds"`

	// Warnings tell of damage that has no part in what was restored, and with Request.Salvage
	// of why something is lost.
	Warnings []string `json:"warnings,omitempty"`
	// Lost are the parts of disks that were filled with zeros, because what they held is
	// unknown: only with Request.Salvage.
	Lost []reading.Lost `json:"lost,omitempty"`
	// LostFiles are the files of the point that are damaged and were left out: only with
	// Request.Salvage.
	LostFiles []string `json:"lost_files,omitempty"`
}

// Disk is one restored disk.
type Disk struct {
	Target      string `json:"target"`
	Image       string `json:"image"` // path
	Format      Format `json:"format"`
	VirtualSize int64  `json:"virtual_size"` // bytes
	DataBytes   int64  `json:"data_bytes"`
}

// files are the paths of all that was made.
func (r Result) files() (paths []string) {
	for _, d := range r.Disks {
		paths = append(paths, d.Image)
	}
	for _, e := range r.Extras {
		paths = append(paths, e.Restored)
	}
	if r.XML != "" {
		paths = append(paths, r.XML)
	}
	return paths
}

// OutputResult is what Output wrote.
type OutputResult struct {
	Domain string    `json:"domain"`
	Point  string    `json:"point"`
	Time   time.Time `json:"time"`
	Output string    `json:"output"` // path without symbolic links, or "-"
	Disk             // Image is Output
	// Beyond is how many bytes of a device are behind the end of the disk: they are as they were.
	Beyond   int64          `json:"beyond,omitempty"`
	Seconds  float64        `json:"seconds"`
	Warnings []string       `json:"warnings,omitempty"`
	Lost     []reading.Lost `json:"lost,omitempty"` // as in Result
}
