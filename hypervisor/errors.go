package hypervisor

import (
	"errors"
	"fmt"
	"strings"

	"libvirt.org/go/libvirt"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// The kinds of failure that callers treat differently; test with errors.Is. Every error of this package that libvirt caused
// is, or wraps, an *Error whose text is libvirt's own message.
var (
	ErrNoDomain = fail.Sentinel(fail.NotFound,
		"virsh list --all shows the domains; is --connect right?",
		"no such domain")
	ErrNoCheckpoint = fail.Sentinel(fail.NotFound,
		"virtbackup checkpoint list with the domain's name shows the checkpoints",
		"no such checkpoint")
	ErrUnreachable = fail.Sentinel(fail.Other,
		"is libvirtd running (systemctl start libvirtd), is --connect right, and may this user connect?",
		"libvirt cannot be reached")
	ErrRemote = fail.Sentinel(fail.Usage,
		"run virtbackup on the host that the domain runs on: the disks are read over a local socket",
		"the connection leads to another host")
	ErrNotRunning = fail.Sentinel(fail.Other, "virsh start DOMAIN", "the domain is not running")

	ErrNoJob                  = errors.New("no backup job")
	ErrCheckpointInconsistent = errors.New("checkpoint without a usable bitmap")
	ErrBusy                   = errors.New("another job holds the domain")
	ErrAgent                  = errors.New("guest agent not usable")
	ErrFreezing               = errors.New("it may still freeze them")
	ErrCheckpointExists       = errors.New("a checkpoint or bitmap of that name exists")
	ErrSocket                 = errors.New("QEMU cannot create the NBD socket")
	ErrScratch                = errors.New("the scratch file cannot be created")
	ErrBitmap                 = errors.New("a disk cannot have the checkpoint's bitmap")
	ErrMayLackBitmap          = errors.New("an image may lack the checkpoint's bitmap")
	ErrUnsupported            = errors.New("libvirt cannot run the domain")
	ErrSchema                 = errors.New("the XML does not conform to libvirt's schema")
)

// Error is a failure that libvirt reported.
type Error struct {
	Kind    error  // one of the sentinels above, or nil
	Code    int    // virErrorNumber, for example 38 for VIR_ERR_SYSTEM_ERROR
	Message string // libvirt's words
}

// Error returns libvirt's message alone: the caller's wrapping says what was tried and on what.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the sentinel, or nil.
func (e *Error) Unwrap() error { return e.Kind }

// kinds maps libvirt's codes (include/libvirt/virterror.h) to the sentinels.
var kinds = map[libvirt.ErrorNumber]error{
	libvirt.ERR_NO_DOMAIN:               ErrNoDomain,
	libvirt.ERR_NO_DOMAIN_BACKUP:        ErrNoJob,
	libvirt.ERR_NO_DOMAIN_CHECKPOINT:    ErrNoCheckpoint,
	libvirt.ERR_CHECKPOINT_INCONSISTENT: ErrCheckpointInconsistent, // since 6.10
	libvirt.ERR_OPERATION_TIMEOUT:       ErrBusy,
	libvirt.ERR_AGENT_UNRESPONSIVE:      ErrAgent,
	libvirt.ERR_AGENT_UNSYNCED:          ErrAgent,
	libvirt.ERR_AGENT_COMMAND_TIMEOUT:   ErrAgent,
	libvirt.ERR_AGENT_COMMAND_FAILED:    ErrAgent,
}

// beginFailures tells failures of virDomainBackupBegin apart that come with codes for everything (VIR_ERR_INTERNAL_ERROR,
// VIR_ERR_OPERATION_FAILED, VIR_ERR_SYSTEM_ERROR, VIR_ERR_INVALID_ARG). The texts are those of libvirt 9.0.0 and QEMU 7.2;
// where others say it otherwise an error has no kind, and its text still says it all.
//
// A libvirtd whose host has another language translates its own texts (package libvirt-l10n), but not what QEMU says, nor the
// names of QEMU's commands. So more than a hint may depend only on a text of QEMU's, as ErrBitmap does here. ErrSocket and
// ErrScratch choose a hint, which is missing where libvirt's text is translated; ErrCheckpointExists chooses nothing.
var beginFailures = []struct {
	text string
	kind error
}{
	{"nbd-server-start", ErrSocket},                // unable to execute QEMU command 'nbd-server-start': Failed to bind socket to …
	{"Bitmap already exists", ErrCheckpointExists}, // … 'transaction': Bitmap already exists: check1
	{"domain moment ", ErrCheckpointExists},        // domain moment check1 already exists
	{"'blockdev-add': Image is not", ErrScratch},   // … in qcow2 format
	{"unable to stat", ErrScratch},                 // unable to stat: /none/vda.scratch: No such file or directory
	{"'blockdev-add': Could not open", ErrScratch}, // … '/root/vda.scratch': Permission denied
	{"Can't make bitmap '", ErrBitmap},             // … 'check1' persistent in 'libvirt-1-format': Cannot store dirty bitmaps in qcow2 v2 files
	{"block-dirty-bitmap-add", ErrBitmap},          // where it is not part of a transaction
	{" persistent bitmap", ErrBitmap},              // … does not support persistent bitmaps; the maximum number of them is reached
}

// beginError gives an error of virDomainBackupBegin or virDomainCheckpointCreateXML its kind. VIR_ERR_CONFIG_UNSUPPORTED is how
// libvirt itself refuses a bitmap (checkpoint for disk vdc unsupported for storage type raw), and a disk that the domain does not
// have; what else it may be the caller finds out by trying each disk alone.
func beginError(err error) error {
	if err == nil {
		return nil
	}
	if hasCode(err, libvirt.ERR_CONFIG_UNSUPPORTED) {
		return withKind(err, ErrBitmap)
	}
	for _, f := range beginFailures {
		if strings.Contains(err.Error(), f.text) {
			return withKind(err, f.kind)
		}
	}
	return err
}

// deleteError gives an error of virDomainCheckpointDelete its kind. Where libvirt finds no bitmap of the checkpoint's name in
// any image of a disk (qemuCheckpointDiscardDiskBitmaps), it says with VIR_ERR_INTERNAL_ERROR, the code for everything: bitmap
// 'check1' not found in backing chain of 'vda', in the language of its host. It has not had QEMU do anything then: an error
// that names one of the commands that it would give is QEMU's refusal.
func deleteError(err error) error {
	if !hasCode(err, libvirt.ERR_INTERNAL_ERROR) || strings.Contains(err.Error(), "transaction") || strings.Contains(err.Error(), "blockdev-reopen") {
		return err
	}
	return withKind(err, ErrMayLackBitmap)
}

// hasCode tells whether err is libvirt's, with that code.
func hasCode(err error, code libvirt.ErrorNumber) bool {
	var e *Error
	return errors.As(err, &e) && libvirt.ErrorNumber(e.Code) == code
}

// translate turns the binding's error, whose text is made for programmers, into an *Error. Others pass unchanged.
func translate(err error) error {
	var lv libvirt.Error
	if !errors.As(err, &lv) {
		return err
	}
	return &Error{Kind: kinds[lv.Code], Code: int(lv.Code), Message: lv.Message}
}

// withKind returns err as an error of that kind, unless it already has one.
func withKind(err, kind error) error {
	var e *Error
	if errors.As(err, &e) && e.Kind == nil {
		return &Error{Kind: kind, Code: e.Code, Message: e.Message}
	}
	return err
}

// about says what was tried on which domain.
func about(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}
