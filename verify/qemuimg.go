package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// said is the output of a run of qemu-img.
type said struct {
	stdout []byte
	stderr string          // trimmed
	exit   *exec.ExitError // nil: it succeeded
}

// qemuImg runs qemu-img. err is exec.ErrNotFound if it is not installed, or the cause if ctx
// is cancelled.
func qemuImg(ctx context.Context, args ...string) (said, error) {
	cmd := exec.CommandContext(ctx, "qemu-img", args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	result := said{stdout: stdout.Bytes(), stderr: strings.TrimSpace(stderr.String())}
	switch {
	case ctx.Err() != nil:
		return said{}, context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return said{}, exec.ErrNotFound
	case err != nil && !errors.As(err, &result.exit):
		return said{}, fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return result, nil
}
