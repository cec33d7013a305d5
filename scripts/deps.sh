#!/bin/bash
# Installs what is needed to build and test virtbackup: Debian packages, and the Go
# binding of libnbd. If nothing is missing it does nothing, in well under a second.
# Only installing packages needs root (or sudo).
#
#   scripts/deps.sh [libguestfs]    with libguestfs: also that, and a kernel for its appliance
set -euo pipefail
cd "$(dirname "$0")/.."

# What the program needs to build and to run.
build=(gcc libc6-dev pkg-config libvirt-dev libnbd-dev qemu-utils qemu-system-common)
# What a hypervisor needs, and what the tests, the guest and the demo use.
hypervisor=(qemu-system-x86 qemu-block-extra libvirt-daemon-system
	libvirt-daemon-driver-qemu libvirt-clients)
tests=(libnbd-bin nbdkit busybox-static cpio gzip e2fsprogs util-linux util-linux-extra xfsprogs btrfs-progs procps
	systemd shellcheck strace tar xz-utils debootstrap ca-certificates virtnbdbackup libxml2-utils
	ovmf swtpm swtpm-tools tini)
packages=("${build[@]}" "${hypervisor[@]}" "${tests[@]}")

say() { printf 'deps: %s\n' "$*"; }
die() {
	printf 'deps: %s\n' "$*" >&2
	exit 1
}

need_go() {
	local want have
	want=$(sed -n 's/^go //p' go.mod)
	command -v go >/dev/null || die "Go $want or newer is needed: https://go.dev/dl/"
	have=$(go env GOVERSION)
	[ "$(printf '%s\n' "$want" "${have#go}" | sort -V | head -n1)" = "$want" ] ||
		die "Go $want or newer is needed, this is ${have#go}: https://go.dev/dl/"
}

# missing_packages prints those of $packages that are not installed, according to dpkg.
missing_packages() {
	local have
	have=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null |
		sed -n 's/ installed$//p' || true)
	comm -23 <(printf '%s\n' "${packages[@]}" | sort -u) <(sort -u <<<"$have")
}

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "missing: run this as root: $*"
	fi
}

need_packages() {
	local missing
	mapfile -t missing < <(missing_packages)
	[ ${#missing[@]} -gt 0 ] || return 0
	say "installing ${missing[*]}"
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update
	as_root env DEBIAN_FRONTEND=noninteractive \
		apt-get -q -y --no-install-recommends install "${missing[@]}"
}

# need_parts is for systems without apt: it looks for each part, and names the packages that
# have the missing ones. Each line is the part, Debian's package, Fedora's package.
need_parts() {
	local part debian fedora complete=yes
	while read -r part debian fedora; do
		case $part in
		/*) [ ! -e "$part" ] || continue ;;
		*.pc) ! pkg-config --exists "${part%.pc}" 2>/dev/null || continue ;;
		*) ! command -v "$part" >/dev/null || continue ;;
		esac
		complete=no
		say "missing: $part (Debian: $debian, Fedora: $fedora)"
	done <<-END
		gcc gcc gcc
		pkg-config pkg-config pkgconf-pkg-config
		libvirt.pc libvirt-dev libvirt-devel
		libnbd.pc libnbd-dev libnbd-devel
		qemu-img qemu-utils qemu-img
		qemu-nbd qemu-utils qemu-img
		qemu-storage-daemon qemu-system-common qemu-img
		qemu-system-x86_64 qemu-system-x86 qemu-system-x86-core
		libvirtd libvirt-daemon-system libvirt-daemon libvirt-daemon-driver-qemu
		virsh libvirt-clients libvirt-client
		nbdcopy libnbd-bin libnbd
		nbdkit nbdkit nbdkit
		busybox busybox-static busybox
		cpio cpio cpio
		mke2fs e2fsprogs e2fsprogs
		debugfs e2fsprogs e2fsprogs
		mkfs.xfs xfsprogs xfsprogs
		mkfs.btrfs btrfs-progs btrfs-progs
		fincore util-linux-extra util-linux
		ps procps procps-ng
		systemd-analyze systemd systemd
		shellcheck shellcheck ShellCheck
		strace strace strace
		tar tar tar
		xz xz-utils xz
		/usr/share/OVMF ovmf edk2-ovmf
		swtpm swtpm swtpm
		swtpm_setup swtpm-tools swtpm-tools
		tini tini tini
		debootstrap debootstrap debootstrap
		xmllint libxml2-utils libxml2
	END
	[ $complete = yes ] || die "install these packages first; this script does so only on Debian"
}

# fetch_source VERSION DIR downloads libnbd's source package to DIR, with separate
# apt lists in DIR, so that the system's do not change.
fetch_source() {
	local version=$1 dir=$2 list
	mkdir -p "$dir/parts" "$dir/lists/partial" "$dir/cache/archives/partial"
	for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
		[ -f "$list" ] || continue
		sed -n 's/^deb /deb-src /p' "$list" >"$dir/parts/${list##*/}"
		[ "$list" != /etc/apt/sources.list ] || mv "$dir/parts/sources.list" "$dir/parts/main.list"
	done
	for list in /etc/apt/sources.list.d/*.sources; do
		[ -f "$list" ] || continue
		sed 's/^Types:.*/Types: deb-src/' "$list" >"$dir/parts/${list##*/}"
	done
	local options=(-q -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$dir/parts"
		-o "Dir::State::Lists=$dir/lists" -o "Dir::Cache=$dir/cache"
		-o APT::Sandbox::User=root)
	(cd "$dir" && apt-get "${options[@]}" update &&
		apt-get "${options[@]}" source --download-only "libnbd=$version")
}

# binding_from DIR puts the binding in third_party/, with a go.work that names it, and adds
# flags for the compiler. gcc 15 compiles as C23 by default, in which "extern int f ();" is
# a function without parameters; libnbd 1.14 declares callbacks with parameters like this.
# libnbd 1.22 declares the parameters, but without const, like cgo's exports.
binding_from() {
	rm -rf third_party/libnbd "$stamp"
	mkdir -p third_party/libnbd
	cp "$1"/*.go "$1"/*.h "$1/go.mod" "$1/LICENSE" third_party/libnbd
	rm -f third_party/libnbd/*_test.go
	cat >third_party/libnbd/flags.go <<-END
		package libnbd

		// #cgo CFLAGS: -std=gnu17 -Wno-discarded-qualifiers
		import "C"
	END
	printf 'go %s\nuse .\nreplace libguestfs.org/libnbd => ./third_party/libnbd\n' \
		"$(sed -n 's/^go //p' go.mod)" >go.work
	pkg-config --modversion libnbd >"$stamp"
}

# need_binding makes libguestfs.org/libnbd available: from the module if its host can
# be reached, else from Debian's source package of the installed library.
need_binding() {
	local version dir stamp=third_party/libnbd.version
	version=$(pkg-config --modversion libnbd)
	if [ -f go.work ] && [ -f third_party/libnbd/flags.go ] &&
		[ "$(cat "$stamp" 2>/dev/null)" = "$version" ]; then
		return
	fi
	if GOWORK=off timeout 60 go mod download libguestfs.org/libnbd 2>/dev/null; then
		dir=$(GOWORK=off go list -m -f '{{.Dir}}' libguestfs.org/libnbd)
		binding_from "$dir"
		return
	fi
	command -v dpkg-query >/dev/null ||
		die "the Go module libguestfs.org/libnbd cannot be fetched from here"
	# Not local: the trap runs after the function has returned.
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	version=$(dpkg-query -W -f '${source:Version}' libnbd-dev)
	say "libguestfs.org/libnbd comes from the source package libnbd $version"
	fetch_source "$version" "$work" >"$work/log" 2>&1 || {
		cat "$work/log" >&2
		die "cannot fetch the source package libnbd $version"
	}
	mkdir "$work/new"
	rm -f "$work"/*.asc
	tar -xf "$work"/libnbd_*.orig.tar.* -C "$work/new" --strip-components=2 --wildcards \
		'*/golang/*.go' '*/golang/*.h' '*/golang/go.mod' '*/golang/LICENSE'
	binding_from "$work/new"
}

# need_libguestfs installs what make libguestfs needs. A host that has a kernel needs no other.
need_libguestfs() {
	if ! command -v apt-get >/dev/null; then
		command -v guestfish >/dev/null || die "missing: guestfish (Fedora: guestfs-tools); install it first"
		return
	fi
	packages=(libguestfs-tools fdisk)
	compgen -G '/boot/vmlinuz-*' >/dev/null || packages+=(linux-image-cloud-amd64)
	need_packages
}

case ${1-} in
"") ;;
libguestfs)
	need_libguestfs
	exit
	;;
*) die "unknown: $1" ;;
esac

need_go
if command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; then
	need_packages
else
	need_parts
fi
need_binding
