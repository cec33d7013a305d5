//go:build !faults

package fault

// Point does nothing: this is a normal build.
func Point(string) error { return nil }
