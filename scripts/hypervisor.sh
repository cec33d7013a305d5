#!/bin/bash
# Starts libvirt's daemon if it does not answer yet, and waits for it. Uses systemd
# if that runs on this machine, else starts the daemon itself.
set -euo pipefail

uri=qemu:///system

answers() { timeout 10 virsh -c "$uri" version >/dev/null 2>&1; }

# Without udev, only root may be able to open /dev/kvm. libvirt then finds KVM usable
# when it probes QEMU (as root), but unusable when it checks the result (as
# libvirt-qemu), and probes again, for four seconds, at almost every call. So
# give the device the group and mode that udev's rules give it.
if [ ! -d /run/systemd/system ] && [ "$(id -u)" = 0 ] && [ -c /dev/kvm ] &&
	[ "$(stat -c %U:%G:%a /dev/kvm)" = root:root:600 ] && getent group kvm >/dev/null; then
	chgrp kvm /dev/kvm
	chmod 0660 /dev/kvm
fi

if answers; then exit 0; fi
[ "$(id -u)" = 0 ] || {
	echo "hypervisor: $uri does not answer; starting it needs root" >&2
	exit 1
}
if [ -d /run/systemd/system ]; then
	systemctl start libvirtd 2>/dev/null || systemctl start virtqemud.socket virtlogd.socket
else
	# As on a machine with systemd: what the daemons start as other users must not look for its
	# files where TMPDIR, HOME or the umask of this shell let only root in. swtpm_setup, which
	# is tss, has some in /tmp itself.
	umask 022
	chmod 1777 /tmp
	cd /
	as_systemd=(env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
	pidof virtlogd >/dev/null || "${as_systemd[@]}" virtlogd -d
	# QEMU is no child of libvirtd, and virsh destroy waits until it was reaped. A process 1 that looks
	# for its children every other second makes that 1.5 s; tini takes its place for them.
	if ! pidof libvirtd >/dev/null; then
		command -v tini >/dev/null || {
			echo "hypervisor: tini is missing: make deps installs it" >&2
			exit 1
		}
		"${as_systemd[@]}" setsid tini -s -- libvirtd </dev/null &>/dev/null &
	fi
fi
for ((i = 0; i < 300; i++)); do
	if answers; then
		echo "hypervisor: $uri is up"
		exit 0
	fi
	sleep 0.1
done
echo "hypervisor: $uri does not answer after 30 s:" >&2
virsh -c "$uri" version >&2 || true
exit 1
