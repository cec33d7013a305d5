package instant

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// A real guest that reads all the time, whose server is killed again and again: it pauses, goes on, and
// sees neither an error nor another byte. One that a person has paused stays so.
func TestGuestSeesNoError(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.NewGuest(t, testdomain.Disk{Target: "vda", Size: 64 * mib}, testdomain.Disk{Target: "vdb", Size: 24 * mib}))
	s.Exec("dd if=/dev/urandom of=/dev/vdb bs=1M count=24 conv=fsync 2>/dev/null")
	want := strings.TrimSpace(s.Exec("md5sum </dev/vdb"))
	s.Exec("sync")
	s.BackUp(0, "full", "--quiesce", "no")
	s.Destroy()
	r := newRestored(t, s)
	p := r.Program.Start(t, r.begin("--limit-rate", "1")...)
	r.awaitRunning(p)
	guest := *s.Domain
	guest.Name, guest.Dir = r.Domain.Name, r.dir
	guest.Dir = consoleOf(t, r)
	guest.AwaitGuest()
	// It tells by its console: a paused guest's agent does not answer.
	guest.Exec(`setsid sh -c 'for i in 1 2 3 4; do echo 3 >/proc/sys/vm/drop_caches; md5sum </dev/vdb; done >/dev/ttyS0 2>&1; echo sums end >/dev/ttyS0' >/dev/null 2>&1 </dev/null &`)
	for range 3 {
		time.Sleep(500 * time.Millisecond)
		r.killServer()
		testsite.Await(t, "the server", 20*time.Millisecond, func() bool { return r.server() != 0 })
	}
	var console string
	testsite.Await(t, "the sums", 500*time.Millisecond, func() bool {
		text, _ := os.ReadFile(filepath.Join(guest.Dir, "serial.log"))
		console = strings.ReplaceAll(string(text), "\r", "")
		return strings.Contains(console, "sums end")
	})
	if wanted := fmt.Sprintf("%[1]s\n%[1]s\n%[1]s\n%[1]s\nsums end\n", want); !strings.HasSuffix(console, wanted) {
		t.Errorf("the guest has read %q, want %q", console, wanted)
	}
	testdomain.Virsh(t, "suspend", r.Domain.Name)
	r.killServer()
	testsite.Await(t, "the server", 20*time.Millisecond, func() bool { return r.server() != 0 })
	time.Sleep(2 * time.Second) // several looks of the supervisor
	if state := r.Domain.State(); state != "paused" {
		t.Errorf("a guest that a person has paused is %s", state)
	}
	testdomain.Virsh(t, "resume", r.Domain.Name)
	killed(p)
	r.Program.Must(t, nil, r.resume()...)
	r.wantNothingLeft("")
	if got := strings.TrimSpace(guest.Exec("echo 3 >/proc/sys/vm/drop_caches; md5sum </dev/vdb")); got != want {
		t.Errorf("at the end the guest has read %q, want %q", got, want)
	}
}

// consoleOf is the directory of the log of the domain's console.
func consoleOf(t *testing.T, r *restored) string {
	t.Helper()
	doc := testdomain.Virsh(t, "dumpxml", r.Domain.Name)
	_, after, _ := strings.Cut(doc, "<serial type='file'>")
	_, after, _ = strings.Cut(after, "<source path='")
	path, _, _ := strings.Cut(after, "'")
	return strings.TrimSuffix(path, "/serial.log")
}
