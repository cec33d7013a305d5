package drill

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
)

// A drill leaves the tenth of a file system free, of a large one 4 GiB.
func TestNoRoom(t *testing.T) {
	d := &drill{point: manifest.Manifest{Domain: "vm1", ID: "check1"}}
	for _, tt := range []struct {
		free, size int64
		enough     bool
	}{
		{0, 0, true}, // it does not say
		{0, 64 << 20, false},
		{6 << 20, 64 << 20, false},
		{7 << 20, 64 << 20, true},
		{1<<30 - 1, 10 << 30, false},
		{1 << 30, 10 << 30, true},
		{4<<30 - 1, 1 << 40, false},
		{4 << 30, 1 << 40, true},
	} {
		err := d.noRoom(tt.free, tt.size)
		var not *NotBootedError
		if (err == nil) != tt.enough || errors.As(err, &not) {
			t.Errorf("%d of %d are free: %v", tt.free, tt.size, err)
		}
		if err != nil && (fail.KindOf(err) != fail.Other || !strings.Contains(fail.HintOf(err), "--scratch-dir")) {
			t.Errorf("%v, hint: %s", err, fail.HintOf(err))
		}
	}
}

// A file system that fills up ends what waits for the guest, and says why; the end of the watch is no error.
func TestWatchRoom(t *testing.T) {
	full, looks := errors.New("full"), 0
	ctx, stop := watchRoom(context.Background(), func() error {
		if looks++; looks < 3 {
			return nil
		}
		return full
	})
	select {
	case <-ctx.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("it did not end")
	}
	if context.Cause(ctx) != full || stop() != nil || looks != 3 {
		t.Errorf("%v after %d looks", context.Cause(ctx), looks)
	}
	_, stop = watchRoom(context.Background(), func() error { return nil })
	if err := stop(); err != nil {
		t.Error(err)
	}
	_, stop = watchRoom(context.Background(), func() error { panic("a bug") })
	time.Sleep(2 * tick)
	if err := stop(); err == nil {
		t.Error("a panic was lost")
	}
}
