package instants

import (
	"os/exec"
	"testing"
	"time"
)

func TestProcessAlive(t *testing.T) {
	self, err := Self()
	if err != nil || !self.Alive() {
		t.Fatalf("%+v, %v", self, err)
	}
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	now, err := readStat(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	child := Process{BootID: self.BootID, PID: cmd.Process.Pid, Start: now.start}
	other, before := child, child
	other.Start-- // its number was given to the child since
	before.BootID = "another"
	if !child.Alive() || other.Alive() || before.Alive() {
		t.Errorf("child %v, one of its number that began earlier %v, one of another boot %v", child.Alive(), other.Alive(), before.Alive())
	}
	_ = cmd.Process.Kill()
	// Its parent may never wait for it, as the first process of some containers.
	for deadline := time.Now().Add(10 * time.Second); child.Alive(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error("a process that was killed is alive until it is waited for")
			break
		}
	}
	_ = cmd.Wait()
	if child.Alive() {
		t.Error("a dead process is alive")
	}
}
