#!/bin/sh
# Prepares the machine for `make demo` (setup.sh demo), `make test` (setup.sh
# test) or `make vm` (setup.sh vm): installs missing packages where it may, and
# names the command where it may not. It fails only when the demo could not run
# at all; a test that lacks something says so itself and is skipped.
set -u

missing=
need() { # need PROGRAM PACKAGE
	command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ] || missing="$missing $2"
}

if [ "${1:-test}" = vm ]; then
	need qemu-system-x86_64 qemu-system-x86
	need mmdebstrap mmdebstrap
	need mke2fs e2fsprogs
else
	need busybox busybox-static
fi
need newuidmap uidmap
if [ "${1:-test}" = test ]; then
	need fusermount3 fuse3
	need mmdebstrap mmdebstrap
	need setfattr attr
	need getfacl acl
	need rsync rsync
	need git git
	need gcc gcc
	need make make
	need setcap libcap2-bin
	need sqlite3 sqlite3
	need strace strace
	need useradd passwd
	need podman podman
	need buildah buildah
	need runc runc
	need skopeo skopeo
	need docker-registry docker-registry
	need umoci umoci
	need xz xz-utils
	need bzip2 bzip2
	need zstd zstd
	need dockerd docker.io
	need qemu-aarch64-static qemu-user-static
fi

# busybox is only of use when it needs no library: the package busybox-static.
if [ "${1:-test}" != vm ] && command -v busybox >/dev/null 2>&1 && ! busybox --list 2>/dev/null | grep -qx sh; then
	missing="$missing busybox-static"
fi

if [ -n "$missing" ]; then
	install="apt-get install -y --no-install-recommends$missing"
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
		echo "setup: $install"
		export DEBIAN_FRONTEND=noninteractive
		apt-get update -qq >/dev/null && $install -qq >/dev/null || echo "setup: that failed; go on without$missing"
		# Debian starts a registry for everybody on the network with its package; the tests
		# start one of their own, for this machine.
		case "$missing" in *docker-registry*)
			[ ! -d /run/systemd/system ] || systemctl --quiet disable --now docker-registry || true
		esac
	else
		echo "setup: missing:$missing; as root run: apt-get update && $install"
	fi
fi

[ "${1:-test}" != vm ] || exit 0 # the machine inside has its own

if [ ! -e /dev/fuse ]; then
	echo "setup: there is no /dev/fuse; as root run: modprobe fuse"
elif [ "$(stat -c %a /dev/fuse)" != 666 ]; then
	if [ "$(id -u)" = 0 ]; then
		echo "setup: opening /dev/fuse to all, as ordinary distributions have it: chmod 0666 /dev/fuse"
		chmod 0666 /dev/fuse
	elif [ ! -w /dev/fuse ]; then
		echo "setup: /dev/fuse is closed to this user; as root run: chmod 0666 /dev/fuse"
	fi
fi

command -v busybox >/dev/null 2>&1 || {
	echo "setup: the demo needs a static busybox; as root run: apt-get install busybox-static" >&2
	[ "${1:-test}" != demo ]
}
