package hypervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"libvirt.org/go/libvirt"
)

// nvramCopy is the name of the job and of the node of CopyNVRAM in QEMU. It is always the same, so that what a process has
// left that was killed is found. There is never more than one: they are made under the backup job, of which libvirt allows
// one.
const nvramCopy = "virtbackup-nvram"

// pflashNodes are the names of QEMU's node of the UEFI variables (libvirt's qemu_block.c, qemu_domain.c). There is no node for
// the format in libvirt 10 and later if it is raw.
var pflashNodes = []string{"libvirt-pflash1-format", "libvirt-pflash1-storage"}

// PlannedNVRAM returns the path of the UEFI variables that libvirt would start the domain with, and their format, where the
// domain's XML does not say: libvirt 9.0 shows what it chose for <os firmware='efi'> only while the domain runs. Both are ""
// if the domain would have none, or none in a file.
//
// virConnectDomainXMLToNative prints the command line without starting or preparing anything.
func (d *Domain) PlannedNVRAM() (path, format string, err error) {
	doc, err := d.InactiveXML()
	if err != nil {
		return "", "", err
	}
	var commandLine string
	err = d.conn.withRetry(func(conn *libvirt.Connect) error {
		commandLine, err = conn.DomainXMLToNative("qemu-argv", doc, 0)
		return err
	})
	if err != nil {
		return "", "", about(err, "ask how domain %s would be started", d.name)
	}
	path, format = plannedNVRAM(commandLine)
	return path, format, nil
}

// plannedNVRAM finds the nodes of the variables among the arguments of -blockdev: JSON objects, quoted for a shell.
func plannedNVRAM(commandLine string) (path, format string) {
	const apostrophe = "\x00"
	commandLine = strings.ReplaceAll(commandLine, `'\''`, apostrophe)
	format = "raw"
	for _, rest := range strings.Split(commandLine, "-blockdev '")[1:] {
		text, _, _ := strings.Cut(rest, "'")
		var node struct {
			Driver   string `json:"driver"`
			Name     string `json:"node-name"`
			Filename string `json:"filename"`
		}
		if json.Unmarshal([]byte(strings.ReplaceAll(text, apostrophe, "'")), &node) != nil {
			continue
		}
		switch node.Name {
		case "libvirt-pflash1-storage":
			path = node.Filename
		case "libvirt-pflash1-format":
			format = node.Driver
		}
	}
	if path == "" {
		return "", ""
	}
	return path, format
}

// CopyNVRAM writes the content of a running domain's UEFI variables, as of one instant, into a file, which gets their length:
// by a backup job that QEMU itself carries out (blockdev-backup), in any format that the variables are stored in.
// It waits for the end of the job; if ctx is cancelled it ends the job.
//
// The file is passed to QEMU as a descriptor, so it need not be where QEMU may open it. The domain is tainted: see monitor.
func (d *Domain) CopyNVRAM(ctx context.Context, to *os.File) error {
	return about(d.copyNVRAM(ctx, to), "copy the UEFI variables of domain %s by its QEMU", d.name)
}

func (d *Domain) copyNVRAM(ctx context.Context, to *os.File) (err error) {
	node, size, err := d.nvramNode()
	if err != nil {
		return err
	}
	if err := to.Truncate(size); err != nil {
		return err
	}
	d.removeNVRAMCopy() // of a process that was killed
	defer d.removeNVRAMCopy()
	var set struct {
		ID int `json:"fdset-id"`
	}
	if err := d.monitor("add-fd", map[string]any{"opaque": nvramCopy}, &set, to); err != nil {
		return err
	}
	if err := d.monitor("blockdev-add", map[string]any{"driver": "file", "node-name": nvramCopy, "filename": fmt.Sprintf("/dev/fdset/%d", set.ID)}, nil); err != nil {
		return err
	}
	if err := d.monitor("blockdev-backup", map[string]any{"job-id": nvramCopy, "device": node, "target": nvramCopy, "sync": "full", "auto-dismiss": false}, nil); err != nil {
		return err
	}
	return d.awaitNVRAMCopy(ctx)
}

// nvramNode finds QEMU's node of the variables, and its size in bytes.
func (d *Domain) nvramNode() (name string, size int64, err error) {
	var nodes []struct {
		Name  string `json:"node-name"`
		Image struct {
			Size int64 `json:"virtual-size"`
		} `json:"image"`
	}
	if err := d.monitor("query-named-block-nodes", map[string]any{"flat": true}, &nodes); err != nil {
		return "", 0, err
	}
	for _, want := range pflashNodes {
		for _, n := range nodes {
			if n.Name == want {
				return n.Name, n.Image.Size, nil
			}
		}
	}
	return "", 0, errors.New("QEMU has no node of that kind")
}

// monitorJob is a job as query-jobs lists it.
type monitorJob struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Error  string `json:"error"`
}

// nvramJob returns the job of CopyNVRAM; its status is "" if there is none.
func (d *Domain) nvramJob() (job monitorJob, err error) {
	var jobs []monitorJob
	err = d.monitor("query-jobs", map[string]any{}, &jobs)
	for _, j := range jobs {
		if j.ID == nvramCopy {
			job = j
		}
	}
	return job, err
}

func (d *Domain) awaitNVRAMCopy(ctx context.Context) error {
	for {
		job, err := d.nvramJob()
		switch {
		case err != nil:
			return err
		case job.Status == "":
			return errors.New("somebody has ended the job")
		case job.Status == "concluded" && job.Error != "":
			return errors.New(job.Error)
		case job.Status == "concluded":
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// removeNVRAMCopy removes all that CopyNVRAM makes in QEMU, as far as it is there. Errors are ignored: what is left
// holds up nothing but memory and a descriptor in QEMU, and the next CopyNVRAM tries again.
func (d *Domain) removeNVRAMCopy() {
	_ = d.monitor("job-cancel", map[string]any{"id": nvramCopy}, nil)
	for range 100 { // a job on a file of a few MiB ends at once
		job, err := d.nvramJob()
		if err != nil || job.Status == "" {
			break
		}
		_ = d.monitor("job-dismiss", map[string]any{"id": nvramCopy}, nil) // QEMU refuses until it is concluded
		time.Sleep(10 * time.Millisecond)
	}
	_ = d.monitor("blockdev-del", map[string]any{"node-name": nvramCopy}, nil)
	var sets []struct {
		ID  int `json:"fdset-id"`
		FDs []struct {
			Opaque string `json:"opaque"`
		} `json:"fds"`
	}
	if d.monitor("query-fdsets", map[string]any{}, &sets) != nil {
		return
	}
	for _, set := range sets {
		if len(set.FDs) > 0 && set.FDs[0].Opaque == nvramCopy {
			_ = d.monitor("remove-fd", map[string]any{"fdset-id": set.ID}, nil)
		}
	}
}
