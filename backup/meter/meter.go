// Package meter records how far the copy of a point is, when it last made progress, and what
// it takes.
package meter

import (
	"sync"
	"time"
)

// Meter is safe for concurrent use. The zero value is ready, and has never moved.
type Meter struct {
	mu     sync.Mutex
	moved  time.Time
	copied map[string]int64 // bytes, by target
	// expected are the bytes that will be copied, by target; negative if unknown.
	expected map[string]int64
	images   []Image
}

// Image is an image that is being written.
type Image interface {
	// Taken is how many bytes it takes so far.
	Taken() int64
}

// Expect sets how many bytes will be copied, by target; negative numbers are unknown ones.
// The meter keeps the map.
func (m *Meter) Expect(bytes map[string]int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expected = bytes
}

// Most is the maximum of bytes of a disk of that size that will be copied.
func (m *Meter) Most(target string, size int64) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n, ok := m.expected[target]; ok && n >= m.copied[target] {
		return n
	}
	return size
}

// Moves records progress of the copy.
func (m *Meter) Moves() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.moved = time.Now()
}

// Note records how many bytes of a disk have been copied.
func (m *Meter) Note(target string, copied int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.moved = time.Now()
	if m.copied == nil {
		m.copied = map[string]int64{}
	}
	m.copied[target] = max(m.copied[target], copied)
}

// Writes adds an image that is written.
func (m *Meter) Writes(image Image) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.images = append(m.images, image)
}

// Taken is the maximum of bytes that all images take so far.
func (m *Meter) Taken() (n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, image := range m.images {
		n += image.Taken()
	}
	return n
}

// Read returns the time since the last progress, and the bytes copied of all disks.
func (m *Meter) Read() (idle time.Duration, copied int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.copied {
		copied += n
	}
	return time.Since(m.moved), copied
}
