#!/bin/bash
# Makes the real guest of tests/realguest: Debian 13 with systemd and PostgreSQL. Prints the
# directory that has vmlinuz, initrd, root.qcow2 (ext4) and data.qcow2 (XFS, PostgreSQL's data).
# Needs root, and Debian with a package source that has Debian 13.
#
# It is made with debootstrap, in about two minutes, once for each version of this script, and kept
# in $REALGUEST_DIR (default: /var/tmp/virtbackup-realguest), which may be removed at any time.
#
# The guest (x86_64, virtio) needs no network. Its services, none of which starts by itself:
#
#   ledger.service   adds rows to the table ledger of the database bank, each in a transaction
#                    of its own, as fast as it can. Once a row is committed, its number and sum go
#                    to the channel org.virtbackup.ledger. The sum is the MD5 of
#                    "SUM-OF-THE-ROW-BEFORE NUMBER PAYLOAD".
#   load.service     runs pgbench on the same database, with two clients
#   files.service    writes and removes files of the root file system
#
# Its journal, with PostgreSQL's log, goes to the serial console.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin

dir=${REALGUEST_DIR:-/var/tmp/virtbackup-realguest}
suite=trixie
packages=(systemd-sysv udev dbus kmod procps linux-image-cloud-amd64 initramfs-tools zstd e2fsprogs
	xfsprogs qemu-guest-agent postgresql)

say() { printf 'real guest: %s\n' "$*" >&2; }
die() {
	say "$@"
	exit 1
}

# need_source sets $debian to the address that apt uses. A new machine has no package lists yet.
need_source() {
	command -v apt-get >/dev/null || die "this host has no apt, which would know a package source"
	local try
	for try in 1 2; do
		# shellcheck disable=SC2016 # apt expands it
		debian=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | sed -n 1p)
		[ -z "$debian" ] || return 0
		[ $try = 2 ] || apt-get -q update >&2
	done
	die "apt has no Debian package source"
}

# need_place makes $dir and locks it. Only root may write to it.
need_place() {
	[ "$(id -u)" = 0 ] || die "run this as root"
	[ -e "$dir" ] || mkdir -m 0700 "$dir"
	[ "$(stat -c %F:%u:%a "$dir")" = directory:0:700 ] ||
		die "$dir is not a directory that root owns, with mode 0700"
	exec 9>"$dir/lock"
	flock 9
}

# write FILE writes a file of the guest, from standard input.
write() {
	mkdir -p "$root/$(dirname "$1")"
	cat >"$root/$1"
}

install_packages() {
	local proxy
	# debootstrap downloads with wget, which does not know apt's proxy.
	proxy=${http_proxy-}
	eval "$(apt-config shell proxy Acquire::http::Proxy)"
	printf -v include '%s,' "${packages[@]}"
	# With PostgreSQL's place mounted, its package makes the cluster there.
	http_proxy=$proxy LANG=C.UTF-8 debootstrap --variant=minbase --include="${include%,}" "$suite" "$root" "$debian"
}

configure() {
	write etc/hostname <<<realguest
	write etc/fstab <<-'END'
		LABEL=root   /                    ext4  errors=remount-ro  0  1
		LABEL=data   /var/lib/postgresql  xfs   defaults           0  2
	END
	# A busy host has nothing to do with what is tested.
	write etc/systemd/system.conf.d/realguest.conf <<-'END'
		[Manager]
		DefaultTimeoutStartSec=10min
		DefaultDeviceTimeoutSec=10min
	END
	write etc/systemd/journald.conf.d/realguest.conf <<-'END'
		[Journal]
		ForwardToConsole=yes
		TTYPath=/dev/ttyS0
		MaxLevelConsole=info
	END
	# The agent says each command that it is given.
	write etc/systemd/system/qemu-guest-agent.service.d/realguest.conf <<-'END'
		[Service]
		LogLevelMax=warning
	END
	# What needs a network, or would load the guest at some time or other.
	chroot "$root" systemctl mask --quiet apt-daily.timer apt-daily-upgrade.timer \
		e2scrub_all.timer fstrim.timer dpkg-db-backup.timer

	write etc/systemd/system/ledger.service <<-'END'
		[Unit]
		Requires=postgresql@VERSION-main.service
		After=postgresql@VERSION-main.service
		[Service]
		User=postgres
		ExecStart=/usr/local/sbin/ledger
		StandardOutput=file:/dev/virtio-ports/org.virtbackup.ledger
	END
	write usr/local/sbin/ledger <<-'END'
		#!/bin/bash
		# Without stdbuf psql would write a pipe of rows at a time.
		yes "$(tr '\n' ' ' </usr/local/share/ledger.sql)" |
			stdbuf -oL psql -qAtX -F ' ' -v ON_ERROR_STOP=1 bank
	END
	write usr/local/share/ledger.sql <<-'END'
		WITH last AS MATERIALIZED (
			SELECT n + 1 AS n, sum, repeat(md5(random()::text), 1 + (random() * 30)::int) AS payload
			FROM ledger ORDER BY ledger.n DESC LIMIT 1)
		INSERT INTO ledger SELECT n, payload, md5(sum || ' ' || n || ' ' || payload) FROM last
		RETURNING n, sum;
	END
	write etc/systemd/system/load.service <<-'END'
		[Unit]
		Requires=postgresql@VERSION-main.service
		After=postgresql@VERSION-main.service
		[Service]
		User=postgres
		ExecStart=/usr/lib/postgresql/VERSION/bin/pgbench -n -c 2 -T 86400 bank
		StandardOutput=null
	END
	write etc/systemd/system/files.service <<-'END'
		[Service]
		ExecStart=/bin/sh -c 'while :; do rm -rf /srv/*; cp -a /etc /srv/new; sync; mv /srv/new /srv/old; sleep 1; done'
	END
	sed -i "s/VERSION/$version/" "$root"/etc/systemd/system/{ledger,load}.service
	chmod 0755 "$root/usr/local/sbin/ledger"
	# Checkpoints come often, so that the points lie before, in and after some, and the log
	# is used again.
	write "etc/postgresql/$version/main/conf.d/realguest.conf" <<-'END'
		checkpoint_timeout = 30s
		max_wal_size = 96MB
		min_wal_size = 32MB
		shared_buffers = 64MB
		log_destination = syslog
	END
}

# as_postgres runs a command in the new system.
as_postgres() { chroot "$root" setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }

# fill_database makes the database bank: the first row of the ledger, and pgbench's tables.
fill_database() {
	local server=/usr/lib/postgresql/$version/bin data=/var/lib/postgresql/$version/main
	local sockets=(-h /var/run/postgresql)
	as_postgres "$server/pg_checksums" --enable -D "$data"
	as_postgres "$server/pg_ctl" -w -s -D "$data" -l /dev/null \
		-o "-c config_file=/etc/postgresql/$version/main/postgresql.conf -c listen_addresses=''" start
	as_postgres createdb "${sockets[@]}" bank
	as_postgres psql -q "${sockets[@]}" bank <<-'END'
		CREATE EXTENSION amcheck;
		CREATE TABLE ledger (n bigint PRIMARY KEY, payload text NOT NULL, sum text NOT NULL);
		CREATE INDEX ON ledger (sum);
		INSERT INTO ledger VALUES (0, '', 'genesis');
	END
	as_postgres "$server/pgbench" "${sockets[@]}" -q -i -s 2 bank
	as_postgres "$server/pg_ctl" -w -s -D "$data" -m fast stop
}

# make_initrd makes one that has only what mounts the root file system: TCG is slow.
make_initrd() {
	sed -i 's/^MODULES=.*/MODULES=list/' "$root/etc/initramfs-tools/initramfs.conf"
	printf '%s\n' virtio_pci virtio_blk ext4 crc32c >>"$root/etc/initramfs-tools/modules"
	chroot "$root" update-initramfs -u -k all
}

# build makes the guest in $new. It runs in namespaces of its own, with which its mounts and
# processes end.
build() {
	new=$1 root=$1/root
	mkdir -p "$root/var/lib/postgresql"
	truncate -s 1G "$new/data"
	mkfs.xfs -q -L data "$new/data"
	mount -o loop "$new/data" "$root/var/lib/postgresql"
	install_packages
	version=$(basename "$root"/etc/postgresql/*)
	configure
	fill_database
	make_initrd
	umount "$root/var/lib/postgresql"
	rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root/etc/resolv.conf"
	mv "$root"/boot/vmlinuz-* "$new/vmlinuz"
	mv "$root"/boot/initrd.img-* "$new/initrd"
	truncate -s 2G "$new/rootfs"
	mke2fs -q -t ext4 -L root -d "$root" "$new/rootfs"
	qemu-img convert -f raw -O qcow2 "$new/rootfs" "$new/root.qcow2"
	qemu-img convert -f raw -O qcow2 "$new/data" "$new/data.qcow2"
	rm -rf --one-file-system "$root" "$new/rootfs" "$new/data"
	sync "$new"/* # complete, before it gets its name
}

case ${1-} in
--build) # called below
	need_source
	build "$2"
	exit
	;;
'') ;;
*) die "no such option: $1" ;;
esac
need_place
key=$(sha256sum <scripts/realguest.sh | cut -c1-16)
if [ ! -d "$dir/$key" ]; then
	say "making it (once, about two minutes)"
	rm -rf --one-file-system "$dir"/new
	mkdir "$dir/new"
	unshare --mount --pid --ipc --fork --kill-child --mount-proc \
		scripts/realguest.sh --build "$dir/new" </dev/null >"$dir/log" 2>&1 || {
		tail -n 30 "$dir/log" >&2
		die "it cannot be made; all of the log is in $dir/log"
	}
	mv "$dir/new" "$dir/$key"
fi
touch "$dir/$key"
# Those of other versions of this script, which no branch has used for a week.
find "$dir" -mindepth 1 -maxdepth 1 -type d -mtime +7 -exec rm -rf {} +
echo "$dir/$key"
