package graft

import "fmt"

// packer puts compressed clusters into host clusters that hold nothing else, one frame
// behind the other. A frame crosses a border only where the next host cluster is free.
type packer struct {
	image   *Image
	cluster int64 // number of the one that is being filled, which counts the packer as a user; 0: none
	buf     []byte
	used    int
}

// add copies a frame and returns where in the file it begins, in bytes.
func (p *packer) add(frame []byte) (at int64, err error) {
	if len(frame) == 0 || len(frame) > len(p.buf) {
		return 0, fmt.Errorf("a compressed cluster of %d bytes", len(frame))
	}
	room := len(p.buf) - p.used
	crosses := false
	if p.cluster != 0 && room < len(frame) {
		if crosses, err = p.image.space.after(p.cluster + 1); err != nil {
			return 0, err
		}
	}
	if p.cluster == 0 || room < len(frame) && !crosses {
		if err := p.begin(); err != nil {
			return 0, err
		}
		room = len(p.buf)
	}
	at = p.cluster*int64(len(p.buf)) + int64(p.used)
	if room > 0 {
		if err := p.fill(frame[:min(room, len(frame))]); err != nil {
			return 0, err
		}
	}
	if !crosses {
		return at, nil
	}
	next := p.cluster + 1
	if err := p.leave(); err != nil {
		return 0, err
	}
	p.cluster = next
	return at, p.fill(frame[room:])
}

// fill puts a frame, or a part of one, into the host cluster, which has one more user then.
func (p *packer) fill(part []byte) error {
	p.used += copy(p.buf[p.used:], part)
	return p.image.space.share(p.cluster)
}

// begin goes on elsewhere.
func (p *packer) begin() (err error) {
	if err := p.leave(); err != nil {
		return err
	}
	p.cluster, err = p.image.space.stretch()
	return err
}

// leave writes the host cluster, which the packer does not use any more.
func (p *packer) leave() error {
	if p.cluster == 0 {
		return nil
	}
	clear(p.buf[p.used:])
	if err := p.image.write(p.buf, p.cluster*int64(len(p.buf)), "compressed clusters"); err != nil {
		return err
	}
	c := p.cluster
	p.cluster, p.used = 0, 0
	return p.image.space.release(c)
}
