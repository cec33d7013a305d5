package qemuimg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
)

// Allocated calls found with each part of an image, in bytes, that takes space in the image itself,
// not in its backing files. Another process may have the image open.
//
//	qemu-img map --output=json -U -f FORMAT PATH
func Allocated(ctx context.Context, path, format string, found func(offset, length int64)) (err error) {
	cmd := exec.CommandContext(ctx, "qemu-img", "map", "--output=json", "-U", "-f", format, "--", path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("qemu-img: %w", err)
	}
	defer func() {
		if err != nil {
			_ = cmd.Process.Kill()
		}
		if err = errors.Join(err, cmd.Wait()); err != nil {
			err = fmt.Errorf("%s: %w", cmd, err)
		}
	}()
	extents := json.NewDecoder(out) // a line for each
	if _, err := extents.Token(); err != nil {
		return err
	}
	for extents.More() {
		var e struct {
			Start, Length int64
			Depth         int
			Data          bool
			Offset        *int64 // in the file; a compressed cluster has none, and moves when it is written to
		}
		if err := extents.Decode(&e); err != nil {
			return err
		}
		if e.Depth == 0 && e.Data && e.Offset != nil {
			found(e.Start, e.Length)
		}
	}
	_, err = extents.Token()
	return err
}
