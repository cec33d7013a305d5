package inplace

import "context"

// changeDomain changes what of the domain's definition goes with its disks. Until the first
// MiB is written, the domain does not boot.
func (r *run) changeDomain(context.Context) error {
	return nil
}
