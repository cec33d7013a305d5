package hashlist

import (
	"errors"
	"testing"
)

// failingOnce is a file that cannot be read the first time.
type failingOnce struct{ reads int }

func (*failingOnce) rangeLength(int64) int64 { return pageSize }

func (f *failingOnce) readRange(_ int64, buf []byte) error {
	if f.reads++; f.reads == 1 {
		return errors.New("not now")
	}
	buf[0] = 'x'
	return nil
}

// An error is not kept: what passes is read again.
func TestRangeCacheForgetsErrors(t *testing.T) {
	c, f := newRangeCache(), &failingOnce{}
	if _, err := c.get(f, 3); err == nil {
		t.Error("no error")
	}
	r, err := c.get(f, 3)
	if err != nil || r.data[0] != 'x' {
		t.Fatalf("the second time: %v", err)
	}
	c.put(r)
	if c.bytes != pageSize {
		t.Errorf("%d bytes are kept", c.bytes)
	}
}
