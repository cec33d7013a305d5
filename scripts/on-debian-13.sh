#!/bin/bash
# Runs a command of the project (default: make test) on Debian 13, on a copy of the
# working tree, with a libvirtd of its own. Needs root, and Debian with a package source
# that has Debian 13.
#
#   scripts/on-debian-13.sh [COMMAND [ARGUMENT...]]
#   scripts/on-debian-13.sh --reachable      whether the package source can be reached
#
# The root file system is built with debootstrap, once, in $DEBIAN13_DIR (default:
# /var/tmp/virtbackup-debian13), and what the command installs and builds stays there for
# the next one; remove the directory to start from scratch. Kernel, network and /dev are the
# host's. Mounts, processes, /run and /sys are in namespaces that end with the command,
# so its libvirtd sees neither the host's domains nor its cgroups.
set -euo pipefail
cd "$(dirname "$0")/.."

dir=${DEBIAN13_DIR:-/var/tmp/virtbackup-debian13}
root=$dir/root
tree=$root/root/virtbackup

say() { printf 'debian 13: %s\n' "$*"; }
die() {
	printf 'debian 13: %s\n' "$*" >&2
	exit 1
}

# source_of prints the address that apt uses for an archive: Debian, Debian-Security.
source_of() {
	# shellcheck disable=SC2016 # apt expands it
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Label: $1" | sed -n 1p
}

# need_sources sets $debian and $security. A new machine has no package lists yet.
need_sources() {
	command -v apt-get >/dev/null || die "this host has no apt, which would know a package source"
	debian=$(source_of Debian)
	if [ -z "$debian" ]; then
		apt-get -q update
		debian=$(source_of Debian)
	fi
	security=$(source_of Debian-Security)
	[ -n "$debian" ] || die "apt has no Debian package source"
}

reachable() {
	need_sources
	# Not local: the trap runs after the function has returned.
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	/usr/lib/apt/apt-helper -o APT::Sandbox::User=root download-file "${debian}dists/trixie/InRelease" "$work/InRelease"
}

# need_place makes $dir and locks it. Only root may write to it, as root runs its programs.
need_place() {
	[ "$(id -u)" = 0 ] || die "run this as root"
	[ -e "$dir" ] || mkdir -m 0700 "$dir"
	[ "$(stat -c %F:%u:%a "$dir")" = directory:0:700 ] ||
		die "$dir is not a directory that root owns, with mode 0700"
	exec 9>"$dir/lock"
	flock -n 9 || die "$dir is in use"
}

need_root() {
	local line kvm proxy
	[ ! -f "$root/.complete" ] || return 0
	need_sources
	command -v debootstrap >/dev/null || {
		apt-get -q update
		DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install debootstrap
	}
	say "building $root"
	rm -rf --one-file-system "$root"
	# debootstrap downloads with wget, which does not know apt's proxy.
	proxy=${http_proxy-}
	eval "$(apt-config shell proxy Acquire::http::Proxy)"
	http_proxy=$proxy debootstrap --variant=minbase --include=ca-certificates,make trixie "$root" "$debian"
	for line in "$debian trixie" "$debian trixie-updates" ${security:+"$security trixie-security"}; do
		echo "deb $line main"
	done >"$root/etc/apt/sources.list"
	# Packages must not start their daemons: scripts/hypervisor.sh does that.
	printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
	chmod 0755 "$root/usr/sbin/policy-rc.d"
	# /dev/kvm is the host's, so its group must have the same number (scripts/hypervisor.sh).
	kvm=$(getent group kvm | cut -d: -f3 || true)
	[ -z "$kvm" ] || chroot "$root" groupadd -f -r -g "$kvm" kvm
	touch "$root/.complete"
}

# copy_tree copies the working tree's files to $tree, including those that are not committed.
# The caches, the libnbd binding and the guest that earlier commands made there stay.
copy_tree() {
	mkdir -p "$tree"
	find "$tree" -mindepth 1 -maxdepth 1 ! -name .cache ! -name third_party ! -name 'go.work*' \
		-exec rm -rf {} +
	git ls-files -z --cached --others --exclude-standard |
		while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
		tar -c --null --no-recursion --files-from=- | tar -x --no-same-owner -C "$tree"
}

# copy_network copies the host's resolver, certificates and apt proxy to the root.
copy_network() {
	cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
	cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
	apt-config dump --format '%F "%v";%n' Acquire::http Acquire::https |
		grep -i '::proxy' >"$root/etc/apt/apt.conf.d/90host" || true
}

# environment prints NAME=VALUE lines: the host's settings for Go, and settings for tests.
# Modules that the host already has are taken from its cache.
environment() {
	local name
	for name in GOFLAGS GOSUMDB GONOSUMDB GOPRIVATE GONOPROXY; do
		echo "$name=$(go env $name)"
	done
	echo "GOPROXY=file:///mnt/gomodcache/cache/download,$(go env GOPROXY)"
	echo GOTOOLCHAIN=local
	env | grep -E '^(VIRTBACKUP_(SEED|SOAK|FAULTS)|FUZZTIME|CI|https?_proxy|no_proxy)=' || true
}

# enter is run as the first process of the namespaces:
# enter ROOT GOROOT GOMODCACHE NAME=VALUE... COMMAND...
# A chroot is not enough: libvirt enters the mount namespaces of its QEMUs, which leaves a
# chroot. So pivot_root is used.
# shellcheck disable=SC2016 # expanded by the shell that runs it
enter='
	root=$1 goroot=$2 modules=$3
	shift 3
	mount --rbind "$root" "$root"
	cd "$root"
	mount --rbind /dev dev
	mount -t proc proc proc
	mount -t sysfs sysfs sys
	mount -t tmpfs -o mode=755 tmpfs run
	mkdir -m 1777 run/lock
	mkdir -p usr/local/go mnt/gomodcache
	mount --bind -o ro "$goroot" usr/local/go
	mount --bind -o ro "$modules" mnt/gomodcache
	pivot_root . .
	umount -l .
	exec chroot . env -i "$@"
'

case ${1-} in
--reachable)
	reachable
	exit
	;;
-*) die "no such option: $1" ;;
esac
[ $# -gt 0 ] || set -- make test
need_place
need_root
copy_network
copy_tree
mapfile -t settings < <(environment)
modules=$(go env GOMODCACHE)
mkdir -p "$modules"
say "$*"
exec unshare --mount --pid --uts --ipc --fork --kill-child bash -euc "$enter" enter \
	"$root" "$(go env GOROOT)" "$modules" \
	HOME=/root LANG=C.UTF-8 TERM=dumb DEBIAN_FRONTEND=noninteractive "${settings[@]}" \
	PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	bash -c 'cd /root/virtbackup && "$@"; exit $?' bash "$@"
