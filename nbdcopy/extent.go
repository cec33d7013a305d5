package nbdcopy

import "fmt"

// Status says what a backup does with an extent.
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

// String names the status as DESIGN does.
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
