package bench

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// servings are a point that is read over NBD, and qemu-nbd on the same chain, which proves nothing.
var servings = []way{
	{"serve", func(s *stage) contestant { return s.served(false, s.readAll) }},
	{"serve-qemu-nbd", func(s *stage) contestant { return s.served(true, s.readAll) }},
	{"serve-4k", func(s *stage) contestant { return s.served(false, s.readRandom) }},
	{"serve-4k-qemu-nbd", func(s *stage) contestant { return s.served(true, s.readRandom) }},
}

// served lets read work on the newest point of the base repository, from a socket. Starting and
// ending the server is not timed. The memory is the server's alone.
func (s *stage) served(byQEMU bool, read func(r *turn, socket string)) contestant {
	var socket string
	return contestant{
		before: func(r *turn) {
			socket = filepath.Join(r.dir, "socket")
			if byQEMU {
				r.startHelper("qemu-nbd", "--read-only", "--persistent", "--format=qcow2", "--shared=8", "--export-name=vda", "--socket="+socket, s.point(s.base, s.newest()))
			} else {
				r.startHelper(testdomain.Binary(s.t), "--repo", s.base, "--quiet", "serve", s.Name, "--socket", socket)
			}
			s.await(socket)
		},
		work: func(r *turn) { read(r, socket) },
		after: func(r *turn) {
			r.endHelper()
			r.Peak = r.helper.peak()
		},
	}
}

// readAll reads the disk from front to back.
func (s *stage) readAll(r *turn, socket string) {
	s.t.Helper()
	r.run("nbdcopy", "nbd+unix:///vda?socket="+socket, "null:")
}

// readRandom reads 4 KiB in each of many places, 16 at a time: the step is coprime to the number of
// blocks, so none comes twice. They are at the beginning of the disk, as much of it as the disk has data; a
// quarter of that is data.
func (s *stage) readRandom(r *turn, socket string) {
	s.t.Helper()
	const step = 99991 * 4 * kib
	out := r.run("qemu-img", "bench", "-c", fmt.Sprint(100_000/s.shrink), "-d", "16", "-s", "4096", "-S", fmt.Sprint(step), "--image-opts",
		fmt.Sprintf("driver=raw,size=%d,file.driver=nbd,file.server.type=unix,file.server.path=%s,file.export=vda", s.data, socket))
	if !strings.Contains(out, "Run completed") {
		s.t.Fatal(out)
	}
}
