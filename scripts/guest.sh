#!/bin/bash
# Builds the guest that the tests and the demo boot: Debian's cloud kernel and
# an initramfs with busybox, mke2fs and the QEMU guest agent. Prints the
# directory that has vmlinuz and initrd.gz. Builds them only if they do not exist
# yet for the installed versions of busybox and e2fsprogs.
#
# The guest (x86_64, virtio) puts an ext4 on /dev/vda if there is none, mounts
# it on /mnt, starts the agent on the channel org.qemu.guest_agent.0 and then
# writes GUEST-READY to the serial console. Everything else is done through
# the agent: guest-exec for commands, guest-fsfreeze-*, and guest-shutdown,
# which unmounts /mnt first.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin

key=$( (
	cat scripts/guest.sh
	dpkg-query -W busybox-static e2fsprogs
) | sha256sum | cut -c1-16)
guest=$PWD/.cache/guest/$key
if [ -f "$guest/initrd.gz" ]; then
	echo "$guest"
	exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root"/{bin,sbin,dev,proc,sys,etc,mnt,tmp,run,var/run,lib/modules,usr/sbin}

# in_order: each module needs those before it. Modules that are built into the kernel are
# left out.
in_order=(virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci
	virtio_blk virtio_console)

download() {
	local kernel
	kernel=$(apt-cache depends linux-image-cloud-amd64 |
		sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n1)
	[ -n "$kernel" ] && (cd "$work" && apt-get -q -o APT::Sandbox::User=root \
		download "$kernel" qemu-guest-agent)
}

# unpack fetches the two packages, without installing them. If the package lists are
# older than the archive, they are updated once.
unpack() {
	download >"$work/log" 2>&1 || {
		apt-get -q update >>"$work/log" 2>&1 && download >>"$work/log" 2>&1
	} || {
		cat "$work/log" >&2
		echo "guest: cannot download the kernel and the guest agent" >&2
		exit 1
	}
	dpkg -x "$work"/linux-image-*.deb "$work/kernel"
	dpkg -x "$work"/qemu-guest-agent_*.deb "$work/agent"
}

# add copies a program with the libraries that it is linked to.
add() {
	local file=$1 to=$2 library
	install -m 0755 "$file" "$root$to"
	if ldd "$file" | grep 'not found' >&2; then
		echo "guest: $file lacks a library" >&2
		exit 1
	fi
	ldd "$file" | grep -o '/[^ ]*' | while read -r library; do
		mkdir -p "$root${library%/*}"
		cp -L "$library" "$root$library"
	done
}

add_modules() {
	local tree name file
	tree=$(echo "$work"/kernel/lib/modules/*)
	[ -d "$tree" ] || tree=$(echo "$work"/kernel/usr/lib/modules/*)
	for name in "${in_order[@]}"; do
		file=$(find "$tree" -name "$name.ko*" | head -n1)
		case $file in
		'') grep -q "/$name.ko" "$tree/modules.builtin" || {
			echo "guest: the kernel has no module $name" >&2
			exit 1
		} ;;
		*.xz) xz -dc "$file" >"$root/lib/modules/$name.ko" ;;
		*) cp "$file" "$root/lib/modules/" ;;
		esac
	done
}

write_init() {
	cat >"$root/init" <<'END'
#!/bin/busybox sh
# The real mke2fs is /sbin/mke2fs, always called by its path: busybox's shell
# prefers its own, which does not support ext4.
export PATH=/sbin:/bin:/usr/sbin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
dmesg -n 1
for module in MODULES; do
	[ ! -f /lib/modules/$module.ko ] || insmod /lib/modules/$module.ko || echo "GUEST: cannot load $module"
done
if [ -b /dev/vda ]; then
	# The magic number of ext2, 3 and 4 is at byte 56 of the superblock.
	[ "$(dd if=/dev/vda bs=1 skip=1080 count=2 2>/dev/null | hexdump -e '2/1 "%02x"')" = 53ef ] ||
		/sbin/mke2fs -q -F -t ext4 /dev/vda
	mount -t ext4 /dev/vda /mnt || echo "GUEST: cannot mount /dev/vda"
fi
mkdir -p /dev/virtio-ports
# The device tells the driver of its ports a moment after it was found.
tries=0
until grep -qs org.qemu.guest_agent.0 /sys/class/virtio-ports/*/name || [ $tries = 50 ]; do
	tries=$((tries + 1))
	sleep 0.1
done
for port in /sys/class/virtio-ports/*; do
	ln -sf "/dev/${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
done
qemu-ga -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run -f /run/qemu-ga.pid &
echo GUEST-READY
while :; do
	sleep 3600 &
	wait $!
done
END
	sed -i "s/MODULES/${in_order[*]}/" "$root/init"
	cat >"$root/sbin/shutdown" <<'END'
#!/bin/busybox sh
sync
umount /mnt
poweroff -f
END
	chmod 0755 "$root/init" "$root/sbin/shutdown"
}

unpack
install -m 0755 "$(command -v busybox)" "$root/bin/busybox"
add "$(command -v mke2fs)" /sbin/mke2fs
add "$work/agent/usr/sbin/qemu-ga" /sbin/qemu-ga
cp /etc/mke2fs.conf "$root/etc/"
add_modules
write_init

mkdir -p "$guest"
new=$(mktemp -d -p .cache/guest)
cp -L "$work"/kernel/boot/vmlinuz-* "$new/vmlinuz"
(cd "$root" && find . | cpio --quiet -o -H newc -R 0:0 | gzip -1) >"$new/initrd.gz"
chmod 0755 "$new"
# initrd.gz comes last: its presence means that the guest is complete.
mv "$new/vmlinuz" "$new/initrd.gz" "$guest"
rmdir "$new"
echo "$guest"
