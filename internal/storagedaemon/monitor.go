package storagedaemon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/internal/qemuimg"
)

// errGone is a daemon that has ended or does not read commands any more.
var errGone = errors.New("it has ended")

// QMPError is what QEMU answers to a command that fails.
type QMPError struct {
	Command string `json:"-"`
	Class   string `json:"class"`
	Desc    string `json:"desc"`
}

// Error names the command.
func (e *QMPError) Error() string { return e.Command + ": " + e.Desc }

// Is reports qemuimg.ErrLocked where another process has the image open.
func (e *QMPError) Is(target error) bool {
	return target == qemuimg.ErrLocked && qemuimg.IsLockText(e.Desc)
}

// monitor sends commands by the QEMU Machine Protocol (docs/interop/qmp-spec.txt), and hands each
// reply to who waits for it, by its id.
type monitor struct {
	out io.WriteCloser

	mu      sync.Mutex
	last    int                   // id of the newest command
	waiting map[int]chan<- answer // by id
	gone    bool
}

type answer struct {
	ID     int             `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *QMPError       `json:"error"`
}

func newMonitor(out io.WriteCloser, in io.Reader) *monitor {
	m := &monitor{out: out, waiting: map[int]chan<- answer{}}
	panics.Go(func() error { m.listen(in); return nil }) // ends with the process, whose output this is
	return m
}

// listen hands out the replies until there are no more.
func (m *monitor) listen(in io.Reader) {
	defer m.abandon()
	for lines := bufio.NewReader(in); ; {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var a answer
		if json.Unmarshal(line, &a) != nil {
			continue
		}
		// The greeting and events have no id.
		if waiter := m.take(a.ID); waiter != nil {
			waiter <- a // it has room for one
		}
	}
}

func (m *monitor) take(id int) chan<- answer {
	m.mu.Lock()
	defer m.mu.Unlock()
	waiter := m.waiting[id]
	delete(m.waiting, id)
	return waiter
}

// abandon tells those that wait that no reply will come.
func (m *monitor) abandon() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone = true
	for id, waiter := range m.waiting {
		close(waiter)
		delete(m.waiting, id)
	}
}

// expect returns the channel of the reply to a new command, and the id of both.
func (m *monitor) expect() (<-chan answer, int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone {
		return nil, 0, errGone
	}
	m.last++
	waiter := make(chan answer, 1)
	m.waiting[m.last] = waiter
	return waiter, m.last, nil
}

func await(ctx context.Context, waiter <-chan answer) (answer, error) {
	select {
	case a, ok := <-waiter:
		if !ok {
			return a, errGone
		}
		return a, nil
	case <-ctx.Done():
		return answer{}, context.Cause(ctx)
	}
}

// greet leaves the mode in which the daemon only negotiates.
func (m *monitor) greet(ctx context.Context) error {
	return m.execute(ctx, "qmp_capabilities", nil, nil)
}

// execute sends a command and waits for its reply. After ctx is cancelled the command may still be
// carried out.
func (m *monitor) execute(ctx context.Context, command string, arguments, result any) error {
	waiter, id, err := m.expect()
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	message := map[string]any{"execute": command, "id": id}
	if arguments != nil {
		message["arguments"] = arguments
	}
	line, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	if _, err := m.out.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("%s: %w (%w)", command, errGone, err)
	}
	a, err := await(ctx, waiter)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", command, err)
	case a.Error != nil:
		a.Error.Command = command
		return a.Error
	case result == nil:
		return nil
	}
	return json.Unmarshal(a.Return, result)
}
