package nbdcopy

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// asked is what a block status was asked for, in bytes.
type asked struct{ offset, length int64 }

// script is a statusFunc that gives prepared replies and keeps the requests.
type script struct {
	replies  [][]entry
	requests []asked
}

func (s *script) status(_ context.Context, offset, length int64) ([]entry, error) {
	s.requests = append(s.requests, asked{offset, length})
	if len(s.replies) == 0 {
		return nil, errors.New("unexpected request")
	}
	reply := s.replies[0]
	s.replies = s.replies[1:]
	return reply, nil
}

// walk asks a cursor for all its runs, front to back.
func walk(c *cursor) (runs []string, err error) {
	for pos := int64(0); pos < c.size; {
		end, set, err := c.run(context.Background(), pos, c.size)
		if err != nil {
			return runs, err
		}
		runs = append(runs, fmt.Sprintf("%d-%d:%v", pos, end, set))
		pos = end
	}
	return runs, nil
}

func TestCursor(t *testing.T) {
	tests := []struct {
		name     string
		size     int64
		window   int64
		replies  [][]entry
		requests []asked
		runs     []string
	}{
		{
			name: "one reply", size: 100, window: 1000,
			replies:  [][]entry{{{40, 0}, {60, 1}}},
			requests: []asked{{0, 100}},
			runs:     []string{"0-40:false", "40-100:true"},
		},
		{
			name: "short replies", size: 100, window: 1000,
			replies:  [][]entry{{{10, 1}}, {{20, 1}, {5, 0}}, {{65, 0}}},
			requests: []asked{{0, 100}, {10, 90}, {35, 65}},
			runs:     []string{"0-30:true", "30-100:false"},
		},
		{
			name: "the overshoot of a request is used", size: 100, window: 40,
			replies:  [][]entry{{{10, 0}, {70, 1}}, {{20, 0}}},
			requests: []asked{{0, 40}, {80, 20}},
			runs:     []string{"0-10:false", "10-80:true", "80-100:false"},
		},
		{
			name: "the overshoot of the disk is cut", size: 100, window: 1000,
			replies:  [][]entry{{{90, 0}, {4096, 1}}},
			requests: []asked{{0, 100}},
			runs:     []string{"0-90:false", "90-100:true"},
		},
		{
			name: "requests end at windows", size: 100, window: 40,
			replies:  [][]entry{{{40, 0}}, {{40, 0}}, {{20, 1}}},
			requests: []asked{{0, 40}, {40, 40}, {80, 20}},
			runs:     []string{"0-80:false", "80-100:true"},
		},
		{
			name: "what stands before an empty entry is good", size: 100, window: 1000,
			replies:  [][]entry{{{10, 1}, {0, 0}, {90, 0}}, {{90, 0}}},
			requests: []asked{{0, 100}, {10, 90}},
			runs:     []string{"0-10:true", "10-100:false"},
		},
		{
			name: "other flags do not end a run", size: 100, window: 1000,
			replies:  [][]entry{{{10, 1}, {10, 3}, {10, 2}, {70, 0}}},
			requests: []asked{{0, 100}},
			runs:     []string{"0-20:true", "20-100:false"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &script{replies: tt.replies}
			runs, err := walk(&cursor{status: s.status, size: tt.size, window: tt.window, flag: 1})
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(runs, tt.runs) {
				t.Errorf("runs %v, want %v", runs, tt.runs)
			}
			if !reflect.DeepEqual(s.requests, tt.requests) {
				t.Errorf("requests %v, want %v", s.requests, tt.requests)
			}
		})
	}
}

func TestCursorNoProgress(t *testing.T) {
	for name, replies := range map[string][][]entry{
		"no entry":    {{}},
		"empty entry": {{{0, 1}, {100, 0}}},
		"later":       {{{10, 1}}, {{0, 0}}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{replies: replies}
			_, err := walk(&cursor{status: s.status, name: "disk", size: 100, window: 1000, flag: 1})
			if err == nil || !strings.Contains(err.Error(), "of disk: the server's reply makes no progress") {
				t.Errorf("error %v, want one about no progress that names the disk", err)
			}
		})
	}
}

// Only the last entry may reach beyond the request: one behind it is not to be believed,
// within the disk or not.
func TestCursorEntriesBehindTheRequest(t *testing.T) {
	for name, reply := range map[string][]entry{
		"behind one that ends with it":   {{40, 1}, {10, 0}},
		"behind one that reaches beyond": {{10, 1}, {31, 0}, {10, 1}},
		"behind the disk":                {{100, 1}, {50, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{replies: [][]entry{reply}}
			runs, err := walk(&cursor{status: s.status, name: "disk", size: 100, window: 40, flag: 1})
			if err == nil || !strings.Contains(err.Error(), "of 40 bytes at offset 0 of disk: the server's reply describes more than what was asked for") {
				t.Errorf("runs %v, error %v, want one that names the request and the disk", runs, err)
			}
		})
	}
}

func TestCursorError(t *testing.T) {
	s := &script{replies: [][]entry{{{10, 1}}}}
	_, err := walk(&cursor{status: s.status, name: "disk", size: 100, window: 1000, flag: 1})
	if want := "block status of 90 bytes at offset 10 of disk: unexpected request"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
}

// A caller that rounds the end of a run down to a cluster asks again from
// inside of that run, although its reply may be gone.
func TestCursorAgainWithinARun(t *testing.T) {
	s := &script{replies: [][]entry{{{10, 1}}, {{20, 1}}, {{70, 0}}}}
	c := &cursor{status: s.status, size: 100, window: 1000, flag: 1}
	for _, ask := range []struct {
		pos, limit, end int64
		set             bool
	}{{0, 100, 30, true}, {28, 100, 30, true}, {28, 29, 29, true}, {29, 100, 30, true}, {30, 64, 64, false}, {60, 100, 100, false}} {
		end, set, err := c.run(context.Background(), ask.pos, ask.limit)
		if err != nil || end != ask.end || set != ask.set {
			t.Errorf("run(%d, %d) = %d, %v, %v; want %d, %v", ask.pos, ask.limit, end, set, err, ask.end, ask.set)
		}
	}
}

func TestCursorSkips(t *testing.T) {
	s := &script{replies: [][]entry{{{10, 1}, {30, 0}}, {{20, 1}}}}
	c := &cursor{status: s.status, size: 1000, window: 100, flag: 1}
	for _, pos := range []int64{5, 530} {
		if _, _, err := c.run(context.Background(), pos, pos+5); err != nil {
			t.Fatal(err)
		}
	}
	if want := []asked{{5, 95}, {530, 70}}; !reflect.DeepEqual(s.requests, want) {
		t.Errorf("requests %v, want %v: nothing between", s.requests, want)
	}
}

// A cursor that jumps asks for little, because it may jump again; one that goes
// on asks for more and more.
func TestCursorLooksAhead(t *testing.T) {
	const gib = 1 << 30
	var requests []asked
	status := func(_ context.Context, offset, length int64) ([]entry, error) {
		requests = append(requests, asked{offset, length})
		return []entry{{length, 1}}, nil
	}
	c := &cursor{status: status, size: 1 << 40, window: 8 * firstLook, flag: 1}
	for _, pos := range []int64{gib, gib + firstLook, gib + 4*firstLook, 9 * gib, 20*gib - 512} {
		if _, _, err := c.run(context.Background(), pos, pos+1); err != nil {
			t.Fatal(err)
		}
	}
	want := []asked{{gib, firstLook}, // a jump
		{gib + firstLook, 2 * firstLook},   // goes on
		{gib + 4*firstLook, 4 * firstLook}, // a small gap, and the window's end
		{9 * gib, firstLook},               // a jump
		{20*gib - 512, 512},                // a window's end
	}
	if !reflect.DeepEqual(requests, want) {
		t.Errorf("requests %v, want %v", requests, want)
	}
}
