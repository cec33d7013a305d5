// Package extent has the words that readers and writers of disks share: a run of
// bytes with one status, and the sink that takes such runs.
package extent

import "fmt"

// Status says what a copy does with an extent.
type Status uint8

const (
	// Clean: unchanged since the base; nothing is read or stored.
	Clean Status = iota
	// Zero: reads as zeros; nothing is read. In an incremental it is stored
	// as zero clusters, because it must hide what the base has there.
	Zero
	// Data: is read and stored.
	Data
)

// String is the name of the status in small letters.
func (s Status) String() string {
	switch s {
	case Clean:
		return "clean"
	case Zero:
		return "zero"
	case Data:
		return "data"
	}
	return fmt.Sprintf("Status(%d)", uint8(s))
}

// Extent is a run of bytes of a disk with one status.
type Extent struct {
	Offset int64 // bytes from the start of the disk
	Length int64 // bytes, never 0
	Status Status
}

// End is the offset of the first byte behind the extent.
func (e Extent) End() int64 { return e.Offset + e.Length }
