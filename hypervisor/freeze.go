package hypervisor

/*
#cgo pkg-config: libvirt
#include <stdlib.h>
#include <string.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

// The Go binding drops the number of file systems that virDomainFSFreeze and virDomainFSThaw return. This calls them
// directly. errors of libvirt are kept per thread, so the message is copied before Go may move on: *message is the
// caller's to free.
//
// In libvirt 9.0.0 an agent that did not even answer the guest-sync before the freeze, and one that was asked to freeze and
// did not answer in time, give the same error. So another question comes first; *asked says that the agent, which answered
// it, was then asked to freeze.
static int virtbackup_fs(virConnectPtr conn, const char *uuid, int thaw, int seconds, int *asked, int *code, char **message) {
	int n = -1;
	long long now;
	unsigned int nanoseconds;
	virErrorPtr err;
	virDomainPtr dom = virDomainLookupByUUIDString(conn, uuid);
	if (!dom || (seconds > 0 && virDomainAgentSetResponseTimeout(dom, seconds, 0) < 0))
		goto out;
	if (!thaw && virDomainGetTime(dom, &now, &nanoseconds, 0) < 0) {
		err = virGetLastError();
		if (err && err->code == VIR_ERR_AGENT_UNRESPONSIVE)
			goto out;
	}
	*asked = 1;
	n = thaw ? virDomainFSThaw(dom, NULL, 0, 0) : virDomainFSFreeze(dom, NULL, 0, 0);
out:
	if (n < 0) {
		err = virGetLastError();
		*code = err ? err->code : 0;
		*message = strdup(err && err->message ? err->message : "unknown error");
	}
	// Back to libvirt's default: the setting outlives this connection, and must not shorten other tools' calls.
	if (dom && (thaw || n < 0))
		virDomainAgentSetResponseTimeout(dom, VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK, 0);
	if (dom)
		virDomainFree(dom);
	return n;
}
*/
import "C"

import (
	"fmt"
	"time"
	"unsafe"

	"libvirt.org/go/libvirt"
)

// Freeze makes the guest write out and freeze its file systems, and returns how many it froze (virDomainFSFreeze, since
// 1.2.5). The guest agent has that long to answer, rounded up to whole seconds (virDomainAgentSetResponseTimeout, since
// 5.10; libvirt's default, which waits for ever, is set again by Thaw, or at once where Freeze fails). ErrAgent where there is no agent, it does
// not answer, or the guest is paused; ErrNotRunning of a domain that is shut off.
//
// Call Thaw afterwards, also after an error. After an error that is also ErrFreezing the agent was asked and has not answered
// in time: it will still freeze the guest as soon as it can, and a Thaw has no effect before that.
func (d *Domain) Freeze(timeout time.Duration) (int, error) {
	n, freezing := 0, false
	err := d.once(func(*libvirt.Domain) error { return nil })
	if err == nil {
		var lost bool
		_, lost, err = d.conn.call(func(conn *libvirt.Connect) error {
			n, freezing, err = d.fs(conn, false, timeout)
			return err
		})
		freezing = freezing || lost
	}
	err = about(d.agentError(err), "freeze the file systems of domain %s", d.name)
	if freezing {
		err = fmt.Errorf("%w: %w", err, ErrFreezing)
	}
	return n, err
}

// Thaw thaws the guest's file systems, and returns how many it thawed (virDomainFSThaw, since 1.2.5). If none is frozen it
// returns 0 and no error.
func (d *Domain) Thaw(timeout time.Duration) (int, error) {
	n := 0
	err := d.conn.withRetry(func(conn *libvirt.Connect) (err error) {
		n, _, err = d.fs(conn, true, timeout)
		return err
	})
	return n, about(d.agentError(err), "thaw the file systems of domain %s", d.name)
}

// agentError attributes every error of no other known kind to the agent: libvirt has no code of its own for that.
func (d *Domain) agentError(err error) error {
	return withKind(d.orNotRunning(err), ErrAgent)
}

// fs freezes or thaws. late says that the agent was asked and did not answer in time.
func (d *Domain) fs(conn *libvirt.Connect, thaw bool, timeout time.Duration) (n int, late bool, err error) {
	raw, err := conn.RawPtr()
	if err != nil {
		return 0, false, err
	}
	defer func() { _, _ = libvirt.CloseRawPtr(raw) }()
	uuid := C.CString(d.uuid)
	defer C.free(unsafe.Pointer(uuid))
	var asked, code, thawFlag C.int
	var message *C.char
	limit := seconds(timeout)
	before := C.int(d.agentTimeout.Swap(0))
	if thaw {
		thawFlag = 1
		if before == limit {
			limit = 0
		}
	}
	done := C.virtbackup_fs(C.virConnectPtr(unsafe.Pointer(raw)), uuid, thawFlag, limit, &asked, &code, &message)
	if done >= 0 {
		if !thaw {
			d.agentTimeout.Store(int32(limit))
		}
		return int(done), false, nil
	}
	defer C.free(unsafe.Pointer(message))
	failure := libvirt.Error{Code: libvirt.ErrorNumber(code), Message: C.GoString(message)}
	silent := failure.Code == libvirt.ERR_AGENT_UNRESPONSIVE || failure.Code == libvirt.ERR_AGENT_COMMAND_TIMEOUT
	return 0, asked != 0 && silent, failure
}

// seconds rounds up; at least 1, as 0 would mean not to wait at all (VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_NOWAIT).
func seconds(timeout time.Duration) C.int {
	return C.int(max(1, (timeout+time.Second-1)/time.Second))
}
