package guestfs

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// zeroless gives bytes without end, none of them zero, and counts them.
type zeroless struct{ given int }

func (z *zeroless) Read(p []byte) (int, error) {
	if z.given > 1<<30 {
		return 0, errors.New("the reader goes on and on")
	}
	for i := range p {
		p[i] = 'x'
	}
	z.given += len(p)
	return len(p), nil
}

// Names are read as they are, and one without an end is an error.
func TestEachName(t *testing.T) {
	var got []string
	add := func(name string) error {
		got = append(got, name)
		return nil
	}
	want := []string{"a\nb", "", strings.Repeat("y", maxName-1), strings.Repeat("z", maxName/2)}
	if err := eachName(strings.NewReader(strings.Join(want, "\x00")+"\x00"), add); err != nil || !slices.Equal(got, want) {
		t.Errorf("%d names, %v", len(got), err)
	}
	if err := eachName(strings.NewReader("a\x00b"), add); !errors.Is(err, io.EOF) {
		t.Errorf("a name that is cut short: %v", err)
	}
	endless := &zeroless{}
	if err := eachName(endless, add); err == nil || !strings.Contains(err.Error(), "longer than 64 KiB") || endless.given > 2*maxName {
		t.Errorf("an endless name: %v after %d bytes", err, endless.given)
	}
}

// The names that are kept have a bound.
func TestRoomForNames(t *testing.T) {
	room, name := roomForNames(), strings.Repeat("x", maxName)
	for n := range 10000 {
		err := room.take(name)
		if err == nil {
			continue
		}
		if kept := n * maxName; kept < 500<<20 || kept > 512<<20 || fail.HintOf(err) == "" {
			t.Errorf("%d bytes were kept, %v, hint %q", kept, err, fail.HintOf(err))
		}
		return
	}
	t.Error("no end")
}
