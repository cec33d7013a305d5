package bench

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// nbdcopyNull reads the disk to nowhere.
func (s *stage) nbdcopyNull() contestant {
	return s.overNBD("", contestant{work: func(r *turn) { r.run("nbdcopy", s.uri(), "null:") }})
}

// directWrite writes as many bytes as the disk has data, with O_DIRECT.
func (s *stage) directWrite() contestant {
	return contestant{work: func(r *turn) {
		r.runChild("write", filepath.Join(r.dir, "data"), strconv.FormatInt(s.data, 10))
	}}
}

// nbdcopyRaw copies to a sparse raw file; --flush means fsync.
func (s *stage) nbdcopyRaw() contestant {
	return s.overNBD("", contestant{work: func(r *turn) {
		r.image = filepath.Join(r.dir, "vda.raw")
		r.run("nbdcopy", "--flush", s.uri(), r.image)
	}})
}

// nbdcopyQemuNBD copies into qemu-nbd as nbdcopy's manual describes. Starting and ending
// qemu-nbd is not timed. --flush reaches its file.
func (s *stage) nbdcopyQemuNBD() contestant { return s.intoQemuNBD() }

// nbdcopyQemuNBDDirect does so with O_DIRECT, which no manual mentions.
func (s *stage) nbdcopyQemuNBDDirect() contestant { return s.intoQemuNBD("--cache=none") }

func (s *stage) intoQemuNBD(options ...string) contestant {
	var socket string
	return s.overNBD("", contestant{
		before: func(r *turn) {
			socket = filepath.Join(r.dir, "socket")
			r.image = filepath.Join(r.dir, "vda.qcow2")
			testdomain.Tool(s.t, "qemu-img", "create", "-q", "-f", "qcow2", r.image,
				fmt.Sprint(testdomain.VirtualSize(s.t, s.truth, "qcow2")))
			args := append([]string{"--persistent", "--format=qcow2", "--shared=4", "--socket=" + socket}, options...)
			r.startHelper("qemu-nbd", append(args, r.image)...)
			s.await(socket)
		},
		work: func(r *turn) {
			r.run("nbdcopy", "--flush", "--destination-is-zero", s.uri(), "nbd+unix:///?socket="+socket)
		},
		after: func(r *turn) { r.endHelper() },
	})
}

// await waits until something listens on a socket.
func (s *stage) await(socket string) {
	s.t.Helper()
	for start := time.Now(); time.Since(start) < 10*time.Second; time.Sleep(5 * time.Millisecond) {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return
		}
	}
	s.t.Fatalf("nothing listens on %s", socket)
}

func (s *stage) qemuImg() contestant { return s.convert() }
func (s *stage) qemuImgZstd() contestant {
	return s.convert("-c", "-o", "compression_type=zstd")
}

func (s *stage) convert(options ...string) contestant {
	return s.overNBD("", contestant{work: func(r *turn) { s.convertFrom(r, "raw", s.uri(), options...) }})
}

// convertFrom is qemu-img convert at its fastest: out of order, O_DIRECT.
func (s *stage) convertFrom(r *turn, format, from string, options ...string) {
	s.t.Helper()
	r.image = filepath.Join(r.dir, "vda.qcow2")
	args := append([]string{"convert", "-W", "-m", "8", "-t", "none", "-f", format, "-O", "qcow2"}, options...)
	r.run("qemu-img", append(args, from, r.image)...)
	r.sync(r.image)
}

// qemuImgChain flattens the newest point of the base repository.
func (s *stage) qemuImgChain() contestant {
	return contestant{work: func(r *turn) { s.convertFrom(r, "qcow2", s.point(s.base, s.newest())) }}
}

// virtnbdbackup makes a full in a new directory.
func (s *stage) virtnbdbackup() contestant {
	return contestant{
		work: func(r *turn) {
			out := filepath.Join(r.dir, "out")
			r.run("virtnbdbackup", s.virtnbdbackupArgs("full", out)...)
			r.sync(out)
		},
		after: s.forget,
	}
}

func (s *stage) virtnbdbackupArgs(level, out string) []string {
	return []string{"--uri", testdomain.URI, "--domain", s.Name, "--level", level, "--output", out, "--noprogress",
		"--scratchdir", s.qemu, "--socketfile", s.socket()}
}
