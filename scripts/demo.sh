#!/bin/bash
# A guided tour: boots a throwaway guest that writes all the time, makes backups
# of every kind, restores every point, and compares it with what the guest had.
# The guest and its files are removed however the tour ends.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/bin:$PATH:/usr/sbin:/sbin

[ "$(id -u)" = 0 ] || {
	echo "demo: libvirt's system daemon, and reading guests' disks, need root: sudo make demo" >&2
	exit 1
}

name=vbdemo-$$
dir=/var/tmp/$name
repo=$dir/repo
export LIBVIRT_DEFAULT_URI=qemu:///system
began=$SECONDS
declare -A file_sum disk_sum # what the guest had at each point

if [ -t 1 ]; then
	bold=$'\e[1m' green=$'\e[32m' plain=$'\e[0m'
else
	bold='' green='' plain=''
fi
title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
note() { printf '  %s\n' "$*"; }
good() { printf '  %sok%s  %s\n' "$green" "$plain" "$*"; }
fail() {
	printf 'demo: %s\n' "$*" >&2
	exit 1
}

# run prints a command as a person would type it, then its output, indented.
run() {
	printf '\n  %s$ %s%s\n' "$bold" "$*" "$plain"
	if [ "$1" = export ]; then
		"$@"
	else
		"$@" 2>&1 | sed 's/^/    /'
	fi
}

cleanup() {
	local status=$?
	trap - EXIT INT TERM HUP
	virsh -q destroy "$name" >/dev/null 2>&1 || true
	virsh -q undefine "$name" --checkpoints-metadata >/dev/null 2>&1 || true
	rm -rf "$dir" "/var/log/libvirt/qemu/$name.log"
	if [ $status = 0 ]; then
		note "The guest, its disks and the repository are removed. ($((SECONDS - began)) s)"
	else
		printf 'demo: failed; the guest and all its files were removed\n' >&2
	fi
	exit $status
}

boot() {
	local kernel
	scripts/hypervisor.sh
	kernel=$(scripts/guest.sh)
	mkdir -m 0755 "$dir"
	cp "$kernel/vmlinuz" "$kernel/initrd.gz" "$dir"
	qemu-img create -q -f qcow2 "$dir/vda.qcow2" 512M
	qemu-img create -q -f qcow2 "$dir/vdb.qcow2" 32M
	cat >"$dir/domain.xml" <<-END
		<domain type='qemu'>
		  <name>$name</name><memory unit='MiB'>192</memory><vcpu>1</vcpu>
		  <os><type arch='x86_64' machine='pc'>hvm</type>
		    <kernel>$dir/vmlinuz</kernel><initrd>$dir/initrd.gz</initrd>
		    <cmdline>console=ttyS0 quiet</cmdline></os>
		  <features><acpi/></features>
		  <devices>
		    <disk type='file'><driver name='qemu' type='qcow2'/>
		      <source file='$dir/vda.qcow2'/><target dev='vda' bus='virtio'/></disk>
		    <disk type='file'><driver name='qemu' type='qcow2'/>
		      <source file='$dir/vdb.qcow2'/><target dev='vdb' bus='virtio'/></disk>
		    <serial type='file'><source path='$dir/serial.log'/></serial>
		    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
		  </devices>
		</domain>
	END
	virsh -q define "$dir/domain.xml"
	virsh -q start "$name"
	for ((i = 0; i < 600; i++)); do
		if grep -q GUEST-READY "$dir/serial.log" 2>/dev/null &&
			agent '{"execute":"guest-ping"}' >/dev/null 2>&1; then
			return
		fi
		sleep 0.2
	done
	fail "the guest does not come up"
}

agent() { virsh -q qemu-agent-command "$name" "$1"; }

# guest runs a shell command in the guest; it must not contain " or \.
guest() {
	local reply pid
	reply=$(agent '{"execute":"guest-exec","arguments":{"path":"/bin/sh","arg":["-c","'"$1"'"],"capture-output":true}}')
	pid=$(sed -n 's/.*"pid":\([0-9]*\).*/\1/p' <<<"$reply")
	until [[ $reply == *'"exited":true'* ]]; do
		sleep 0.05
		reply=$(agent '{"execute":"guest-exec-status","arguments":{"pid":'"$pid"'}}')
	done
	[[ $reply == *'"exitcode":0'* ]] || fail "in the guest: $1: $reply"
	sed -n 's/.*"out-data":"\([^"]*\)".*/\1/p' <<<"$reply" | base64 -d
}

# change makes the guest write a file to the ext4 on vda, and part of the bare disk
# vdb, and records the checksums of both as the truth for the next point.
change() {
	local point=$1 at=$2
	file_sum[$point]=$(guest "dd if=/dev/urandom of=/mnt/$point bs=64k count=16 2>/dev/null && sync && sha256sum </mnt/$point")
	disk_sum[$point]=$(guest "dd if=/dev/urandom of=/dev/vdb bs=64k seek=$at count=40 conv=fsync 2>/dev/null && sha256sum </dev/vdb")
	note "the guest has written /mnt/$point (1 MiB, on vda) and 2.5 MiB of vdb"
}

# compare compares what was restored from a point with what the guest had then.
compare() {
	local point=$1 sum later=no other
	sum=$(sha256sum <"$dir/$point/vdb.raw")
	[ "$sum" = "${disk_sum[$point]}" ] || fail "$point: vdb is not what the guest had"
	good "vdb is, byte for byte, what the guest had"
	fsck "$dir/$point/vda.raw"
	good "the ext4 on vda is clean (e2fsck -fn)"
	for other in check1 check2 check3 diff4; do
		sum=$(debugfs -R "cat /$other" "$dir/$point/vda.raw" 2>/dev/null | sha256sum)
		if [ $later = no ]; then
			[ "$sum" = "${file_sum[$other]}" ] || fail "$point: /mnt/$other is not what the guest had"
		else
			[ "$sum" = "$(sha256sum </dev/null)" ] || fail "$point: /mnt/$other is from a later time"
		fi
		[ "$other" != "$point" ] || later=yes
	done
	good "every file written until then is there and correct, and none from later"
}

# fsck replays the journal if it has to be replayed, as a mount would.
fsck() {
	if dumpe2fs -h "$1" 2>/dev/null | grep -q needs_recovery; then
		e2fsck -y -E journal_only "$1" >/dev/null 2>&1 || true
	fi
	e2fsck -fn "$1" >"$dir/fsck.log" 2>&1 || {
		cat "$dir/fsck.log" >&2
		fail "$1: the file system is damaged"
	}
}

trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

title "1. A guest to back up"
note "A real Linux with two disks: ext4 on vda, and vdb. No KVM is needed."
boot
guest "mkdir /mnt/busy && setsid sh -c 'i=0; while :; do i=\$((i+1)); dd if=/dev/urandom of=/mnt/busy/\$((i%20)) bs=4k count=\$((i%37+1)); usleep 20000; done' >/dev/null 2>&1 </dev/null &"
run virsh domblklist "$name"
note "From here on it writes to vda all the time."

title "2. A repository, and a full backup"
run export VIRTBACKUP_REPO="$repo"
run virtbackup init
change check1 0
run virtbackup full "$name"

title "3. Two incremental backups: only what has changed since"
change check2 100
run virtbackup inc "$name"
change check3 120
run virtbackup inc "$name"

title "4. A differential backup: what has changed since the full"
change diff4 300
run virtbackup diff "$name"

title "5. What there is now"
run virtbackup list "$name"
run virtbackup checkpoint list "$name"

title "6. Every point, restored and compared"
for point in check1 check2 check3 diff4; do
	run virtbackup restore "$name" --at "$point" --to "$dir/$point" --format raw
	compare "$point"
done

title "7. The images are plain qcow2: QEMU's own tools restore them too"
run qemu-img convert -O raw "$repo/$name/check3/vdb.qcow2" "$dir/vdb.raw"
[ "$(sha256sum <"$dir/vdb.raw")" = "${disk_sum[check3]}" ] || fail "qemu-img reads something else from check3"
good "the same bytes, without virtbackup"

title "That was virtbackup."
