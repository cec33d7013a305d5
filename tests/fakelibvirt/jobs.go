package fakelibvirt

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/virtbackup/virtbackup/hypervisor"
)

// job is a backup job: the disks as they were when it began.
type job struct {
	socket string
	disks  []jobDisk
	used   int64 // bytes in the scratch files
}

type jobDisk struct {
	target, scratch string
	incremental     bool
	data            []byte // at the instant
	dirty           []bool // by cluster, of an incremental
	saved           []bool // clusters whose old content is in the scratch file
}

// save saves what a disk holds in clusters that the guest is about to overwrite; false where
// the scratch files may take no more.
func (j *job) save(written *disk, first, last, limit int64) bool {
	i := slices.IndexFunc(j.disks, func(d jobDisk) bool { return d.target == written.target })
	if i < 0 {
		return true
	}
	for at := first; at <= last; at++ {
		switch {
		case j.disks[i].saved[at]:
		case limit > 0 && j.used+cluster > limit:
			return false
		default:
			j.disks[i].saved[at] = true
			j.used += cluster
		}
	}
	return true
}

// backupDocument is a <domainbackup>.
type backupDocument struct {
	XMLName xml.Name `xml:"domainbackup"`
	Server  struct {
		Socket string `xml:"socket,attr"`
	} `xml:"server"`
	Disks []struct {
		Name        string `xml:"name,attr"`
		Backup      string `xml:"backup,attr"`
		Incremental string `xml:"incremental,attr"`
		Scratch     struct {
			File string `xml:"file,attr"`
		} `xml:"scratch"`
	} `xml:"disks>disk"`
}

// BackupBegin begins a pull-mode job, and makes a checkpoint at the same instant. It makes
// the socket, as an empty file; the scratch files must be there.
func (d *Domain) BackupBegin(backupXML, checkpointXML string) error {
	if err := d.call("BackupBegin"); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.LateBegin {
		d.LateBegin, d.late = false, func() error { return d.begin(backupXML, checkpointXML) }
		return failure(hypervisor.ErrUnreachable, "the program was killed")
	}
	return d.begin(backupXML, checkpointXML)
}

// Settle begins the job of LateBegin.
func (d *Domain) Settle(context.Context) error {
	if err := d.call("Settle"); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.takeDown()
	if d.late != nil {
		begin := d.late
		d.late = nil
		_ = begin() // its answer goes to nobody
	}
	return nil
}

// takeDown is what libvirt does once it shows an ended job no more: it takes its labels off the
// scratch files, and complains of those that are gone.
func (d *Domain) takeDown() {
	for _, jd := range d.ending {
		if _, err := os.Stat(jd.scratch); err != nil {
			d.complaints = append(d.complaints, "unable to stat: "+err.Error())
		}
	}
	d.ending = nil
}

// Complaints are what libvirt has logged about files that were removed too early.
func (d *Domain) Complaints() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.takeDown()
	return slices.Clone(d.complaints)
}

func (d *Domain) begin(backupXML, checkpointXML string) error {
	switch {
	case d.state == hypervisor.ShutOff:
		return d.notRunning()
	case d.job != nil || d.OtherJob != "":
		return failure(hypervisor.ErrBusy, "Timed out during operation: cannot acquire state change lock (held by monitor=remoteDispatchDomainBackupBegin)")
	}
	j, err := d.newJob(backupXML)
	if err != nil {
		return err
	}
	if checkpointXML != "" {
		if err := d.create(checkpointXML); err != nil {
			return err
		}
	}
	// libvirt keeps the checkpoint where the rest fails.
	if err := j.openFiles(); err != nil {
		return err
	}
	d.job = j
	return d.done("BackupBegin")
}

func (d *Domain) newJob(text string) (*job, error) {
	var doc backupDocument
	if err := xml.Unmarshal([]byte(text), &doc); err != nil {
		return nil, failure(nil, "XML error: %v", err)
	}
	j := &job{socket: doc.Server.Socket}
	for _, bd := range doc.Disks {
		if bd.Backup == "no" {
			continue
		}
		disk := d.disk(bd.Name)
		if disk == nil {
			return nil, failure(nil, "invalid argument: no disk named '%s'", bd.Name)
		}
		jd := jobDisk{target: bd.Name, scratch: bd.Scratch.File, data: d.atInstant(disk), saved: make([]bool, clusters(len(disk.data)))}
		if bd.Incremental != "" {
			since, err := d.record(bd.Incremental)
			if err != nil {
				return nil, err
			}
			i := slices.IndexFunc(since.disks, func(rd recordDisk) bool { return rd.target == bd.Name })
			if i < 0 || d.bitmap(since.disks[i]) == nil || d.bitmap(since.disks[i]).broken {
				return nil, failure(hypervisor.ErrCheckpointInconsistent, "checkpoint inconsistent: bitmap '%s' of disk '%s'", bd.Incremental, bd.Name)
			}
			jd.incremental, jd.dirty = true, slices.Clone(d.bitmap(since.disks[i]).dirty)
		}
		j.disks = append(j.disks, jd)
	}
	return j, nil
}

// atInstant is what a disk holds now. That of a domain that was loaded is not copied: nobody
// writes to it in the process that has the job.
func (d *Domain) atInstant(disk *disk) []byte {
	if d.dir != "" {
		return disk.data
	}
	return bytes.Clone(disk.data)
}

func (j *job) openFiles() error {
	if err := os.WriteFile(j.socket, nil, 0o600); err != nil {
		return failure(hypervisor.ErrSocket, "internal error: unable to execute QEMU command 'nbd-server-start': Failed to bind socket to %s: %v", j.socket, err)
	}
	for _, d := range j.disks {
		if _, err := os.Stat(d.scratch); err != nil {
			return failure(hypervisor.ErrScratch, "Failed to open file '%s': %v", d.scratch, err)
		}
	}
	return nil
}

// BackupJob is the document of the job, with all names.
func (d *Domain) BackupJob() (string, error) {
	if err := d.call("BackupJob"); err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.job == nil {
		return "", d.noJob()
	}
	var disks strings.Builder
	for _, jd := range d.job.disks {
		mode := ""
		if jd.incremental {
			mode = fmt.Sprintf(" backupmode='incremental' exportbitmap='backup-%s'", jd.target)
		}
		fmt.Fprintf(&disks, "<disk name='%s' backup='yes' type='file'%s exportname='%s'><driver type='qcow2'/><scratch file='%s'/></disk>", jd.target, mode, jd.target, jd.scratch)
	}
	return fmt.Sprintf("<domainbackup mode='pull'><server transport='unix' socket='%s'/><disks>%s</disks></domainbackup>", d.job.socket, disks.String()), nil
}

func (d *Domain) noJob() error {
	return failure(hypervisor.ErrNoJob, "Domain backup job id not found: no domain backup job present")
}

// ProveBackup is nil if a job protects the disks.
func (d *Domain) ProveBackup(targets []string) error {
	if err := d.call("ProveBackup"); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, target := range targets {
		if d.job == nil || !slices.ContainsFunc(d.job.disks, func(jd jobDisk) bool { return jd.target == target }) {
			return d.noJob()
		}
	}
	return nil
}

// EndBackup ends the job, if there is one.
func (d *Domain) EndBackup(context.Context) error {
	if err := d.call("EndBackup"); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.job != nil {
		d.ending = d.job.disks
	}
	d.job = nil // libvirt leaves the socket, and scratch files that were there before
	return d.done("EndBackup")
}

// Job tells whether a backup job runs.
func (d *Domain) Job() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.job != nil
}

// JobStats says how much is in the scratch files.
func (d *Domain) JobStats() (hypervisor.JobStats, error) {
	if err := d.call("JobStats"); err != nil {
		return hypervisor.JobStats{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.job == nil {
		return hypervisor.JobStats{}, d.noJob()
	}
	return hypervisor.JobStats{Operation: "backup", TempUsed: d.job.used}, nil
}

// RunningJob names the job that holds the domain, "" for none.
func (d *Domain) RunningJob() (string, error) {
	if err := d.call("RunningJob"); err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.job != nil {
		return "backup", nil
	}
	return d.OtherJob, nil
}

// BlockJob is OtherBlockJob.
func (d *Domain) BlockJob(string) (hypervisor.BlockJob, error) {
	return d.OtherBlockJob, d.call("BlockJob")
}
