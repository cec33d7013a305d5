package tests

import (
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// liar takes the place of the guest agent: it answers with numbers and texts that no
// agent gives, then with noise, and at last with an answer that does not end.
const liar = `port=/dev/virtio-ports/org.qemu.guest_agent.0
sleep 1
kill -9 $(pidof qemu-ga)
sleep 1
exec 3<>$port
(while read -r line <&3; do
	id=$(echo "$line" | sed 's/.*"id"://; s/[^0-9].*//')
	case $line in
	*guest-sync*) echo "{\"return\": $id}" >&3 ;;
	*freeze*) echo '{"return": 2147483647}' >&3 ;;
	*) printf '{"error": {"class": "\\u001b[2J", "desc": "\\u001b[2J\\u001b]0;owned\\u0007"}}\n' >&3 ;;
	esac
done) &
sleep 25
kill $!
head -c 24000000 /dev/urandom >&3
sleep 5
printf '{"return": [' >&3
yes '{"a": [[[[' | head -c 24000000 >&3
`

// Whatever a guest answers in its agent's name, the run ends in time, its point is right,
// and nothing that the guest says steers a terminal.
func TestHostileAgent(t *testing.T) {
	t.Parallel()
	s := newSite(t, testdomain.NewGuest(t, testdomain.Disk{Target: "vda", Size: 64 << 20}))
	s.WriteFile("/mnt/liar.sh", []byte(liar))
	s.Exec("setsid sh /mnt/liar.sh >/dev/null 2>&1 </dev/null &")
	time.Sleep(3 * time.Second)
	s.program.Max = 90 * time.Second
	for start, kind := time.Now(), "full"; time.Since(start) < 50*time.Second; kind = "inc" {
		r := s.program.Must(t, []int{0, 3}, kind, s.Name)
		wantNoControls(t, kind, r.Stdout+r.Stderr)
		if s.HasJob() || s.State() != "running" {
			t.Errorf("a job is left, or the guest is %s", s.State())
		}
		time.Sleep(2 * time.Second)
	}
	s.program.Must(t, nil, "verify")
	testdomain.Virsh(t, "suspend", s.Name)
	s.backUp(0, "inc")
	s.check()
}
