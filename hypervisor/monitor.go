package hypervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"libvirt.org/go/libvirt"
)

// monitorError is a refusal of QEMU's.
type monitorError struct {
	Class string `json:"class"`
	Text  string `json:"desc"`
}

func (e *monitorError) Error() string { return e.Text }

// monitor executes a command of QEMU's monitor protocol (virDomainQemuMonitorCommandWithFiles, since 8.2), with files for
// QEMU, and reads its reply into reply, which may be nil.
//
// libvirt marks the domain as tainted ("custom-monitor") for any such command, and says so in the domain's log. So use it
// only for what cannot be done in another way.
func (d *Domain) monitor(command string, arguments map[string]any, reply any, files ...*os.File) error {
	text, err := json.Marshal(map[string]any{"execute": command, "arguments": arguments})
	if err != nil {
		return err
	}
	var answer string
	err = d.with(func(dom *libvirt.Domain) error {
		if len(files) == 0 {
			answer, err = dom.QemuMonitorCommand(string(text), libvirt.DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT)
			return err
		}
		answer, _, err = dom.QemuMonitorCommandWithFiles(string(text), copies(files), libvirt.DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT)
		return err
	})
	if err == nil {
		err = parseReply(answer, reply)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", command, d.orNotRunning(err))
	}
	return nil
}

// copies is what the binding takes; the files stay the caller's.
func copies(files []*os.File) (list []os.File) {
	for _, f := range files {
		list = append(list, *f)
	}
	return list
}

// parseReply reads {"return": …} or {"error": …}.
func parseReply(answer string, reply any) error {
	var whole struct {
		Return json.RawMessage `json:"return"`
		Error  *monitorError   `json:"error"`
	}
	if err := json.Unmarshal([]byte(answer), &whole); err != nil {
		return fmt.Errorf("parse the reply: %w", err)
	}
	switch {
	case whole.Error != nil:
		return whole.Error
	case whole.Return == nil:
		return errors.New("QEMU has not answered")
	case reply == nil:
		return nil
	}
	if err := json.Unmarshal(whole.Return, reply); err != nil {
		return fmt.Errorf("parse the reply: %w", err)
	}
	return nil
}
