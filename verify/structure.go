package verify

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// checkStructure runs
//
//	qemu-img check --force-share --output=json json:{"driver": "qcow2", "backing": null, "file": {"driver": "file", "filename": PATH}}
//
// which opens only this file, whatever backing file its header names, and never writes. It
// returns what is wrong with the image, or "". err is exec.ErrNotFound if qemu-img is not
// installed.
func checkStructure(ctx context.Context, path string) (faults string, err error) {
	image, err := json.Marshal(map[string]any{"driver": "qcow2", "backing": nil,
		"file": map[string]any{"driver": "file", "filename": path}})
	if err != nil {
		return "", err
	}
	out, err := qemuImg(ctx, "check", "--force-share", "--output=json", "json:"+string(image))
	if err != nil {
		return "", err
	}
	var found struct {
		Corruptions int64
		Leaks       int64
		CheckErrors int64 `json:"check-errors"`
	}
	parseErr := json.Unmarshal(out.stdout, &found)
	if out.exit == nil && parseErr == nil && found.Corruptions+found.Leaks+found.CheckErrors == 0 {
		return "", nil
	}
	if parseErr == nil && found.Corruptions+found.Leaks > 0 {
		return fmt.Sprintf("is as it was written, but qemu-img check finds %d corruptions and %d leaked clusters in it", found.Corruptions, found.Leaks), nil
	}
	text, _, _ := strings.Cut(out.stderr, "\n")
	return fmt.Sprintf("is as it was written, but qemu-img check fails on it: %s (%v)", text, out.exit), nil
}
