package drill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"time"

	"github.com/virtbackup/virtbackup/drill/record"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/bounded"
)

const (
	// maxPicture is how large a picture may be as libvirt has it, in bytes: one of 4096 × 4096.
	maxPicture = 50 << 20
	// maxScreenshot is how large one may be that is kept.
	maxScreenshot = 8 << 20
	// screenshotTime is how long it may take.
	screenshotTime = 20 * time.Second
)

// takeScreenshot takes a picture of the guest's screen, if it has one and still runs.
func (d *drill) takeScreenshot(ctx context.Context) {
	if !d.machine.Screen {
		return
	}
	format, data, err := within(ctx, screenshotTime, d.domain.Screenshot)
	if errors.Is(err, hypervisor.ErrNoDomain) || errors.Is(err, hypervisor.ErrNotRunning) {
		return
	}
	if err == nil {
		data, err = toPNG(format, data)
	}
	if err != nil {
		d.Log.Debug(err.Error())
		d.result.Notes = append(d.result.Notes, "there is no screenshot: "+err.Error())
		return
	}
	d.screen, d.result.Screenshot = data, record.ScreenshotName(d.result.ID)
}

// within gives up on a screenshot after some time, or when ctx ends: a QEMU that hangs does not answer.
func within(ctx context.Context, limit time.Duration, take func(most int) (format string, data []byte, err error)) (string, []byte, error) {
	var taken struct {
		format string
		data   []byte
	}
	err := bounded.WithinContext(ctx, limit, func() (err error) {
		taken.format, taken.data, err = take(maxPicture)
		return err
	})
	if err != nil {
		return "", nil, err // taken may still be written to
	}
	return taken.format, taken.data, nil
}

// toPNG makes a PNG of a picture that a guest has drawn.
func toPNG(format string, data []byte) ([]byte, error) {
	var picture image.Image
	var err error
	if format == "image/png" {
		picture, err = parsePNG(data)
	} else {
		picture, err = parsePPM(data)
	}
	if err != nil {
		return nil, fmt.Errorf("the screenshot (%s): %w", format, err)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, picture); err != nil {
		return nil, err
	}
	if b.Len() > maxScreenshot {
		return nil, fmt.Errorf("the screenshot has %d bytes as PNG, more than %d", b.Len(), maxScreenshot)
	}
	return b.Bytes(), nil
}

// parsePNG reads one whose size is looked at first: some bytes may be a picture of gigabytes.
func parsePNG(data []byte) (image.Image, error) {
	config, err := png.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if int64(config.Width)*int64(config.Height)*3 > maxPicture {
		return nil, fmt.Errorf("it is %d × %d", config.Width, config.Height)
	}
	return png.Decode(bytes.NewReader(data))
}

// parsePPM reads a binary PPM as QEMU writes it (ui/console.c, ppm_save): "P6\nWIDTH HEIGHT\n255\n".
func parsePPM(data []byte) (image.Image, error) {
	var width, height, most int
	var newline byte
	header := bytes.NewReader(data)
	if _, err := fmt.Fscanf(header, "P6\n%d %d\n%d%c", &width, &height, &most, &newline); err != nil || most != 255 || newline != '\n' {
		return nil, errors.New("it is no PPM of 255 colours")
	}
	pixels := data[len(data)-header.Len():]
	if width <= 0 || height <= 0 || width > maxPicture/3 || height > maxPicture/3/width || len(pixels) != 3*width*height {
		return nil, fmt.Errorf("it says that it is %d × %d, and has %d bytes", width, height, len(pixels))
	}
	picture := image.NewRGBA(image.Rect(0, 0, width, height))
	for i := 0; i < width*height; i++ {
		picture.SetRGBA(i%width, i/width, color.RGBA{pixels[3*i], pixels[3*i+1], pixels[3*i+2], 255})
	}
	return picture, nil
}
