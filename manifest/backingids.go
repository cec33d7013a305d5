package manifest

import (
	"fmt"
	"slices"
)

const (
	maxBackingIDs = 1024 // images in a chain: libvirt allows 200
	maxBackingID  = 256  // bytes: a UUID of the device mapper has at most 128
)

// BoundBackingIDs returns the identities of backing files as a manifest may have them: nil, that
// is unknown, if there are more of them than a manifest may have, and "" for one that is too long.
// A disk like that is backed up nevertheless.
func BoundBackingIDs(ids []string) []string {
	if len(ids) > maxBackingIDs {
		return nil
	}
	ids = slices.Clone(ids)
	for i, id := range ids {
		if len(id) > maxBackingID {
			ids[i] = ""
		}
	}
	return ids
}

func validateBackingIDs(ids []string) error {
	if len(ids) > maxBackingIDs {
		return fmt.Errorf("source_backing_ids: %d, more than %d", len(ids), maxBackingIDs)
	}
	for _, id := range ids {
		if len(id) > maxBackingID {
			return fmt.Errorf("source_backing_ids: one of %d bytes, more than %d", len(id), maxBackingID)
		}
	}
	return nil
}
