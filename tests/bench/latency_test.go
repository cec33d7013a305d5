package bench

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"time"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// pause between two writes of the guest: QEMU has the time to serve readers,
// and a copy of a second sees enough of them for a 99th percentile over all rounds.
const pause = 4 * time.Millisecond

// guest writes 4 KiB at random places of the data, one write after the other,
// through QEMU's own block layer, while a contestant works. What is measured is
// how long QEMU takes for a write, by its own clock; not how long the request
// waits until QEMU's main loop looks at it.
type guest struct {
	*stage
	virsh  *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	log    *os.File // of QEMU, which prints there what became of the writes
	stop   chan struct{}
	ended  chan struct{}
	writes int
	err    error
}

// disturb adds a writing guest to a contestant.
func disturb(make func(*stage) contestant) func(*stage) contestant {
	return func(s *stage) contestant {
		c := make(s)
		work := c.work
		c.work = func(r *turn) {
			g := s.startGuest()
			work(r)
			r.latencies = g.end()
			r.image = "" // it is no longer the same as the source
		}
		return c
	}
}

// idle is the baseline of the guest's latency.
func (s *stage) idle() contestant {
	return contestant{work: func(*turn) { time.Sleep(3 * time.Second / time.Duration(s.shrink)) }}
}

// idleJob shows what a backup job costs the guest while no client reads: QEMU saves what the
// guest overwrites.
func (s *stage) idleJob() contestant { return s.overNBD("", s.idle()) }

// startGuest starts the writes. One virsh sends them all: starting one for
// each would keep a processor busy.
func (s *stage) startGuest() *guest {
	s.t.Helper()
	g := &guest{stage: s, virsh: exec.Command("virsh", "-q", "-c", testdomain.URI),
		stop: make(chan struct{}), ended: make(chan struct{})}
	var err error
	if g.log, err = os.Open(s.logFile()); err == nil {
		_, err = g.log.Seek(0, io.SeekEnd)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	g.in, _ = g.virsh.StdinPipe()
	out, _ := g.virsh.StdoutPipe()
	g.out = bufio.NewReader(out)
	if err := g.virsh.Start(); err != nil {
		s.t.Fatal(err)
	}
	go g.write()
	return g
}

// write writes until the guest is stopped.
func (g *guest) write() {
	defer close(g.ended)
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 4))
	for g.err == nil {
		select {
		case <-g.stop:
			return
		case <-time.After(pause):
			run := random.Int64N(runs) * (g.size / runs)
			at := run + random.Int64N(g.data/runs/4096)*4096
			g.err = g.monitor(fmt.Sprintf("write -P 0x55 %d 4k", at))
			g.writes++
		}
	}
}

// monitor sends one command to QEMU and waits until it has been carried out.
func (g *guest) monitor(command string) error {
	if _, err := fmt.Fprintf(g.in, "qemu-monitor-command %s --hmp 'qemu-io -d /machine/peripheral/ua-vda/virtio-backend \"%s\"'\n",
		g.Name, command); err != nil {
		return err
	}
	return g.prompt()
}

// prompt reads what virsh prints until it asks for the next command.
func (g *guest) prompt() error {
	for {
		if _, err := g.out.ReadString('#'); err != nil {
			return err
		}
		if c, err := g.out.ReadByte(); err != nil || c == ' ' {
			return err
		}
	}
}

// end stops the writes and returns how long each took.
func (g *guest) end() []time.Duration {
	g.t.Helper()
	close(g.stop)
	<-g.ended
	g.in.Close()
	_, _ = io.Copy(io.Discard, g.out)
	if err := g.virsh.Wait(); err != nil || g.err != nil {
		g.t.Fatalf("virsh: %v, %v", err, g.err)
	}
	defer func() { g.log.Close() }()
	var text []byte
	for start := time.Now(); time.Since(start) < 10*time.Second; time.Sleep(10 * time.Millisecond) {
		text = append(text, g.printed()...)
		if found := latencies(text); len(found) >= g.writes {
			return found
		}
	}
	g.t.Fatalf("QEMU has not told of all %d writes:\n%.1000s", g.writes, text)
	return nil
}

func (s *stage) logFile() string { return "/var/log/libvirt/qemu/" + s.Name + ".log" }

// printed is what QEMU has printed since it was last asked for. virtlogd
// renames a log of 2 MiB and begins another.
func (g *guest) printed() []byte {
	text, _ := io.ReadAll(g.log)
	old, _ := g.log.Stat()
	now, err := os.Stat(g.logFile())
	if err != nil || os.SameFile(old, now) {
		return text
	}
	rest, _ := io.ReadAll(g.log)
	g.log.Close()
	g.log, _ = os.Open(g.logFile())
	return append(text, rest...)
}

// written is what qemu-io prints for one write; 1/rate is how long it took.
var written = regexp.MustCompile(`wrote 4096/4096 bytes at offset \d+\s+4 KiB, 1 ops;.* and ([0-9.]+) ops/sec\)`)

func latencies(log []byte) []time.Duration {
	var all []time.Duration
	for _, m := range written.FindAllSubmatch(log, -1) {
		if rate, err := strconv.ParseFloat(string(m[1]), 64); err == nil {
			all = append(all, time.Duration(float64(time.Second)/rate))
		}
	}
	return all
}
