package guest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// liar replaces the guest agent: it answers with numbers and texts that no agent gives, then
// with noise, and finally with an answer that does not end. It begins when the real one has answered
// that it was started.
const liar = `port=/dev/virtio-ports/org.qemu.guest_agent.0
sleep 5
kill -9 $(pidof qemu-ga)
sleep 1
exec 3<>$port
echo LIAR-READY
(while read -r line <&3; do
	id=$(echo "$line" | sed 's/.*"id"://; s/[^0-9].*//')
	case $line in
	*guest-sync*) echo "{\"return\": $id}" >&3 ;;
	*freeze*) echo '{"return": 2147483647}' >&3 ;;
	*) printf '{"error": {"class": "\\u001b[2J", "desc": "\\u001b[2J\\u001b]0;owned\\u0007"}}\n' >&3 ;;
	esac
done) &
sleep 15
kill $!
echo LIAR-NOISE
head -c 4000000 /dev/urandom >&3
printf '{"return": [' >&3
yes '{"a": [[[[' | head -c 4000000 >&3
`

// Whatever a hostile guest agent answers, a run ends within the minutes that it tries to thaw,
// leaves no job, prints nothing from the guest that could control a terminal, and lists only
// points that are right. (A guest can claim that its file systems were frozen.)
func TestHostileAgent(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.NewGuest(t, testdomain.Disk{Target: "vda", Size: 64 << 20}))
	s.WriteFile("/mnt/liar.sh", []byte(liar))
	s.Exec("setsid sh /mnt/liar.sh >/dev/console 2>&1 </dev/null &")
	said := func(words string) bool {
		text, _ := os.ReadFile(filepath.Join(s.Dir, "serial.log"))
		return strings.Contains(string(text), words)
	}
	for start := time.Now(); !said("LIAR-READY") && time.Since(start) < time.Minute; {
		time.Sleep(200 * time.Millisecond)
	}
	want := 0
	for noisy, kind := 0, "copy"; noisy < 1; {
		if said("LIAR-NOISE") {
			noisy++
		}
		r := s.Program.Must(t, []int{0, 1, 3}, kind, s.Name)
		testsite.WantNoControls(t, kind, r.Stdout+r.Stderr)
		// The noise may come between the freeze and the thaw: then the freeze is left to the
		// next run, which can only say so, as the guest is paused.
		if want = 0; strings.Contains(r.Stderr, "may still be frozen") {
			want = 3
		}
		if s.HasJob() || s.State() != "running" {
			t.Errorf("a job is left, or the guest is %s", s.State())
		}
		time.Sleep(time.Second)
	}
	s.Program.Must(t, nil, "verify")
	testdomain.Virsh(t, "suspend", s.Name)
	s.BackUp(want, "full")
	s.Check()
}
