package qemuimg

import (
	"fmt"
	"strconv"
)

// AddBitmap adds a persistent bitmap that records from now on to a qcow2 image. granularity is
// in bytes, a power of two.
//
// If this is killed (the host loses power, …), all bitmaps of the image are lost. They also are
// if there is no room for them when they are stored again: see whether there is, before.
func AddBitmap(path, name string, granularity int64) error {
	return bitmap(path, name, "--add", "-g", strconv.FormatInt(granularity, 10))
}

// RemoveBitmap removes a persistent bitmap, also one that is not valid, from a qcow2 image.
// For what happens if it is killed see AddBitmap.
func RemoveBitmap(path, name string) error { return bitmap(path, name, "--remove") }

func bitmap(path, name string, what ...string) error {
	image, err := alone(path, "qcow2")
	if err != nil {
		return err
	}
	args := append([]string{"bitmap"}, what...)
	if err := runToEnd(append(args, "--", image, name)...); err != nil {
		return fmt.Errorf("image %s: %w", path, err)
	}
	return nil
}

// Resize sets the virtual size, in bytes, of an image or a raw file; what is beyond a smaller
// one is lost.
func Resize(path, format string, size int64) error {
	image, err := alone(path, format)
	if err != nil {
		return err
	}
	if err := runToEnd("resize", "-q", "--shrink", "--", image, strconv.FormatInt(size, 10)); err != nil {
		return fmt.Errorf("image %s: %w", path, err)
	}
	return nil
}

// Create makes a new image of size bytes with the options of -o. It overwrites what is there:
// the caller has seen to it that nothing is, or that it may be.
func Create(path, format string, size int64, options ...string) error {
	args := []string{"create", "-q", "-f", format}
	for _, o := range options {
		args = append(args, "-o", o)
	}
	if err := runToEnd(append(args, "--", path, strconv.FormatInt(size, 10))...); err != nil {
		return fmt.Errorf("image %s: %w", path, err)
	}
	return nil
}
