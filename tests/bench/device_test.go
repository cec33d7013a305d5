package bench

import (
	"slices"
	"sync"
	"testing"
	"time"
)

// device is a model of something slow that disks lie on: requests share its
// throughput, and one that does not follow the last costs a seek. It takes them
// in the order in which Linux's mq-deadline does for a disk with an arm (see
// block/mq-deadline.c): upwards from where the head is, in batches; behind a
// batch the oldest comes first if it has waited for too long.
type device struct {
	rate float64       // bytes a second
	seek time.Duration // 0: there is no arm

	mu     sync.Mutex
	wake   *sync.Cond
	queue  []*request // as they came
	head   int64
	batch  int
	seeks  int // so far
	closed bool
}

// request is one read of a device.
type request struct {
	offset, length int64
	arrived        time.Time
	done           func() // called once the data is there, on a goroutine of its own
}

// The defaults of mq-deadline for reads.
const (
	fifoBatch  = 16
	readExpire = 500 * time.Millisecond
)

// near is the distance within which a disk reads on and drops what it passes instead of
// seeking: about half a rotation.
const near = 1 * mib

func newDevice(t *testing.T, rate float64, seek time.Duration) *device {
	t.Helper()
	d := &device{rate: rate, seek: seek}
	d.wake = sync.NewCond(&d.mu)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.run()
	}()
	t.Cleanup(func() {
		d.mu.Lock()
		d.closed = true
		d.mu.Unlock()
		d.wake.Signal()
		<-ended
	})
	return d
}

// read queues a request, whose time begins now.
func (d *device) read(r *request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r.arrived = time.Now()
	d.queue = append(d.queue, r)
	d.wake.Signal()
}

// seeked is how often the arm has moved since the last call.
func (d *device) seeked() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.seeks
	d.seeks = 0
	return n
}

// run serves one request at a time. How late a sleep ends does not add up: the
// next request begins when the last one should have ended.
func (d *device) run() {
	var free time.Time
	for {
		d.mu.Lock()
		for len(d.queue) == 0 && !d.closed {
			d.wake.Wait()
		}
		if d.closed {
			d.mu.Unlock()
			return
		}
		r, cost := d.next(time.Now())
		d.mu.Unlock()
		if free.Before(r.arrived) {
			free = r.arrived
		}
		free = free.Add(cost)
		time.Sleep(time.Until(free))
		go r.done()
	}
}

// next takes a request from the queue and tells how long it takes.
func (d *device) next(now time.Time) (*request, time.Duration) {
	chosen := -1
	for i, r := range d.queue {
		if r.offset >= d.head && (chosen < 0 || r.offset < d.queue[chosen].offset) {
			chosen = i
		}
	}
	if d.batch >= fifoBatch {
		d.batch = 0
		if now.Sub(d.queue[0].arrived) > readExpire {
			chosen = 0
		}
	}
	chosen = max(chosen, 0) // nothing is above: the oldest
	r := d.queue[chosen]
	d.queue = slices.Delete(d.queue, chosen, chosen+1)
	bytes, cost := r.length, time.Duration(0)
	switch gap := r.offset - d.head; {
	case d.seek == 0 || gap == 0:
	case gap > 0 && gap < near:
		bytes += gap
	default:
		cost = d.seek
		d.seeks++
	}
	d.batch++
	d.head = r.offset + r.length
	return r, cost + time.Duration(float64(bytes)/d.rate*float64(time.Second))
}

// The figures of two disks depend on the model.
func TestDevice(t *testing.T) {
	const far = 1 * gib
	now := time.Now()
	d := &device{rate: 100 * mib, seek: 12 * time.Millisecond}
	for i := range int64(20) {
		d.queue = append(d.queue, &request{offset: far + i*mib, length: mib, arrived: now}, &request{offset: i * mib, length: mib, arrived: now})
	}
	var order []int64
	var sum time.Duration
	for len(d.queue) > 0 {
		r, cost := d.next(now.Add(time.Second)) // all have waited for too long
		order = append(order, r.offset)
		sum += cost
	}
	// 16 of the lower, then the oldest, which is the first of the upper, and all
	// that follow, because the oldest is always among them.
	if order[0] != 0 || order[15] != 15*mib || order[16] != far || order[35] != far+19*mib || order[36] != 16*mib {
		t.Errorf("the order is %v", order)
	}
	if want := 400*time.Millisecond + 2*12*time.Millisecond; (sum - want).Abs() > time.Millisecond {
		t.Errorf("it takes %v, want %v", sum, want)
	}
}
