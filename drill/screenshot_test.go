package drill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/color"
	"image/png"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/bounded"
)

func TestPPM(t *testing.T) {
	data, err := toPNG("image/x-portable-pixmap", []byte("P6\n2 1\n255\n\x01\x02\x03\xff\x00\x80"))
	if err != nil {
		t.Fatal(err)
	}
	picture, err := png.Decode(bytes.NewReader(data))
	if err != nil || picture.Bounds().Dx() != 2 || picture.Bounds().Dy() != 1 {
		t.Fatal(picture, err)
	}
	if got := color.RGBAModel.Convert(picture.At(1, 0)); got != (color.RGBA{0xff, 0, 0x80, 255}) {
		t.Errorf("the second pixel is %v", got)
	}
	if again, err := toPNG("image/png", data); err != nil || !bytes.Equal(again, data) {
		t.Errorf("a PNG: %v", err)
	}
}

// A picture says how large it is, and a guest may have chosen that.
func TestBadPictures(t *testing.T) {
	for _, data := range []string{"", "P6", "P5\n1 1\n255\nx", "P6\n1 1\n65535\nxxxxxx", "P6\n2 1\n255\nxxx", "P6\n-1 -1\n255\nxxx", "P6\n0 0\n255\n",
		"P6\n100000 100000\n255\nxxx", fmt.Sprintf("P6\n%d %d\n255\nxxx", 1<<32, 1<<32), "P6\n1 1\n255\nxxxx"} {
		if _, err := toPNG("image/x-portable-pixmap", []byte(data)); err == nil {
			t.Errorf("%q was accepted", data)
		}
	}
	var huge bytes.Buffer // the header of a PNG of 30,000 × 30,000
	huge.WriteString("\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR\x00\x00\x75\x30\x00\x00\x75\x30\x08\x02\x00\x00\x00")
	huge.WriteString("\xd4\xf6\xe0\xb7")
	if _, err := toPNG("image/png", huge.Bytes()); err == nil || strings.Contains(err.Error(), "runtime") {
		t.Errorf("a huge PNG: %v", err)
	}
}

// A QEMU that does not answer, or a signal, does not keep the drill.
func TestScreenshotHangs(t *testing.T) {
	hangs := make(chan struct{})
	defer close(hangs)
	take := func(int) (string, []byte, error) { <-hangs; return "image/png", nil, nil }
	if _, _, err := within(context.Background(), time.Millisecond, take); !errors.Is(err, bounded.ErrNoAnswer) {
		t.Errorf("too long: %v", err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	signal := errors.New("a signal")
	cancel(signal)
	if _, _, err := within(ctx, time.Hour, take); err != signal {
		t.Errorf("a signal: %v", err)
	}
	format, data, err := within(context.Background(), time.Hour, func(most int) (string, []byte, error) { return "image/png", make([]byte, most), nil })
	if format != "image/png" || len(data) != maxPicture || err != nil {
		t.Errorf("%q, %d bytes, %v", format, len(data), err)
	}
}
