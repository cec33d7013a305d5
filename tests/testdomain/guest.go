package testdomain

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"time"

	"libvirt.org/go/libvirt"
)

// bootTime is how long a guest may take until its agent answers; under TCG on
// two busy cores it takes five to twenty seconds.
const bootTime = 2 * time.Minute

// NewGuest boots a real Linux guest (scripts/guest.sh): it makes an ext4 on vda and mounts it
// on /mnt, and the guest agent answers. Further disks are left alone;
// the guest sees them as /dev/vdb and so on.
func NewGuest(t testing.TB, disks ...Disk) *Domain {
	t.Helper()
	d := defineGuest(t, 192, "", disks)
	Virsh(t, "start", d.Name)
	d.AwaitGuest()
	return d
}

// DefineGuest defines the guest of NewGuest, without starting it.
func DefineGuest(t testing.TB, disks ...Disk) *Domain {
	t.Helper()
	return defineGuest(t, 192, "", disks)
}

// DefineUEFIGuest defines the guest of NewGuest, with UEFI firmware that boots it: that takes
// 20 to 40 s more under TCG.
func DefineUEFIGuest(t testing.TB, disks ...Disk) *Domain {
	t.Helper()
	return defineGuest(t, 256, UEFI, disks)
}

// NewWithExtras is New with UEFI variables, a kernel and an initrd, the files vars.fd, vmlinuz and
// initrd.gz in the domain's directory. They are random and small: QEMU has read others.
func NewWithExtras(t testing.TB, disks ...Disk) *Domain {
	t.Helper()
	d := defineGuest(t, 64, UEFI, disks)
	d.Start()
	for name, size := range map[string]int{"vars.fd": 5000, "vmlinuz": 1<<20 + 7, "initrd.gz": 3000} {
		data := make([]byte, size)
		_, _ = rand.Read(data)
		if err := os.WriteFile(filepath.Join(d.Dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func defineGuest(t testing.TB, memory int, boot string, disks []Disk) *Domain {
	t.Helper()
	files := strings.TrimSpace(Tool(t, filepath.Join(Root(t), "scripts/guest.sh")))
	d := define(t, Identity{}, memory, boot+`<kernel>@DIR@/vmlinuz</kernel><initrd>@DIR@/initrd.gz</initrd>`+
		`<cmdline>console=ttyS0 quiet panic=-1 no_timer_check</cmdline>`,
		`<serial type='file'><source path='@DIR@/serial.log'/></serial>`+
			`<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>`+
			`<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>`, disks)
	for _, name := range []string{"vmlinuz", "initrd.gz"} {
		Tool(t, "cp", filepath.Join(files, name), d.Dir)
	}
	return d
}

// AwaitGuest waits until the guest has booted and its agent answers.
func (d *Domain) AwaitGuest() {
	d.t.Helper()
	deadline := time.Now().Add(bootTime)
	for time.Now().Before(deadline) {
		text, _ := os.ReadFile(filepath.Join(d.Dir, "serial.log"))
		if strings.Contains(string(text), "GUEST-READY") {
			if _, err := d.agent(`{"execute":"guest-ping"}`, 5); err == nil {
				return
			}
		}
		time.Sleep(200 * time.Millisecond)
	}
	d.t.Fatalf("the guest %s is not up after %s", d.Name, bootTime)
}

// agent sends one command to the guest agent; seconds is how long it may take.
func (d *Domain) agent(request string, seconds int) (reply string, err error) {
	err = onDomain(d.Name, func(domain *libvirt.Domain) error {
		reply, err = domain.QemuAgentCommand(request, libvirt.DomainQemuAgentCommandTimeout(seconds), 0)
		return err
	})
	return reply, err
}

// Exec runs a shell command in the guest, as root, and returns its standard
// output. Exit status other than 0, or more than two minutes, ends the test.
func (d *Domain) Exec(shell string) string {
	d.t.Helper()
	return d.ExecInput(shell, nil)
}

// ExecInput is Exec with at most 64 KiB of standard input.
func (d *Domain) ExecInput(shell string, input []byte) string {
	d.t.Helper()
	arguments := map[string]any{"path": "/bin/sh", "arg": []string{"-c", shell}, "capture-output": true}
	if input != nil {
		arguments["input-data"] = base64.StdEncoding.EncodeToString(input)
	}
	var started struct{ Pid int }
	d.ask("guest-exec", arguments, &started)
	deadline := time.Now().Add(2 * time.Minute)
	for pause := 20 * time.Millisecond; time.Now().Before(deadline); pause = min(2*pause, 500*time.Millisecond) {
		var status struct {
			Exited           bool
			Exitcode, Signal int
			Out              []byte `json:"out-data"`
			Err              []byte `json:"err-data"`
		}
		d.ask("guest-exec-status", map[string]any{"pid": started.Pid}, &status)
		if !status.Exited {
			time.Sleep(pause)
			continue
		}
		if status.Exitcode != 0 || status.Signal != 0 {
			d.t.Fatalf("in the guest: %s: exit %d, signal %d\n%s%s", shell, status.Exitcode, status.Signal, status.Out, status.Err)
		}
		return string(status.Out)
	}
	d.t.Fatalf("in the guest: %s: still runs", shell)
	return ""
}

// ask sends a command to the guest agent and decodes what it returns.
func (d *Domain) ask(execute string, arguments, into any) {
	d.t.Helper()
	request, err := json.Marshal(map[string]any{"execute": execute, "arguments": arguments})
	if err != nil {
		d.t.Fatal(err)
	}
	reply, err := d.agent(string(request), 30)
	if err != nil {
		d.t.Fatalf("guest agent of %s: %s: %v", d.Name, execute, err)
	}
	whole := struct{ Return any }{into}
	if err := json.Unmarshal([]byte(reply), &whole); err != nil {
		d.t.Fatalf("guest agent of %s: %s: %v in %s", d.Name, execute, err, reply)
	}
}

// WriteFile writes a file of at most 64 KiB in the guest and fsyncs it and
// its directory. Paths below /mnt are on vda.
func (d *Domain) WriteFile(path string, data []byte) {
	d.t.Helper()
	d.ExecInput(fmt.Sprintf("cat >'%s' && sync", path), data)
}

// WriteForever starts a loop in the guest that writes, overwrites and removes
// files in /mnt/busy until the guest stops.
func (d *Domain) WriteForever() {
	d.t.Helper()
	d.Exec(`mkdir -p /mnt/busy && setsid sh -c 'i=0; while :; do i=$((i+1)); ` +
		`dd if=/dev/urandom of=/mnt/busy/$((i%20)) bs=4k count=$((i%37+1)); ` +
		`[ $((i%7)) != 0 ] || rm -f /mnt/busy/$((i%11)); [ $((i%5)) != 0 ] || sync; usleep 20000; done' ` +
		`>/dev/null 2>&1 </dev/null &`)
}

// PowerOff makes the guest unmount its disk and shut down.
func (d *Domain) PowerOff() {
	d.t.Helper()
	_, _ = d.agent(`{"execute":"guest-shutdown"}`, 10)
	for start := time.Now(); time.Since(start) < bootTime; time.Sleep(100 * time.Millisecond) {
		if d.State() == "shut" {
			return
		}
	}
	d.t.Fatalf("the guest %s does not shut down", d.Name)
}

// GuestFile reads a file out of a raw image of a guest's vda; path is that in
// the file system, without /mnt. It is empty where there is no such file.
func GuestFile(t testing.TB, raw, path string) []byte {
	t.Helper()
	return []byte(Tool(t, "debugfs", "-R", "cat "+path, raw))
}

// NeedsReplay says whether the ext4 in a raw image has a journal to replay.
func NeedsReplay(t testing.TB, raw string) bool {
	t.Helper()
	return strings.Contains(Tool(t, "dumpe2fs", "-h", raw), "needs_recovery")
}

// Fsck replays the journal of the ext4 in a raw image, as a mount would, and
// then ends the test unless e2fsck finds the file system clean.
func Fsck(t testing.TB, raw string) {
	t.Helper()
	if NeedsReplay(t, raw) {
		Tool(t, "e2fsck", "-y", "-E", "journal_only", raw)
	}
	Tool(t, "e2fsck", "-fn", raw)
}
