#!/bin/bash
# vm.sh [VARVE]: varve in a small virtual machine of Debian with systemd, where all control
# groups are of version 2: limits, pause, stats and the killer of memory, as root, as a user
# with delegated groups and a range of ids, as one with a single id, and as one without
# groups; containers over a reboot and over a reset; and a machine without user namespaces,
# without /dev/fuse, and without overlayfs. What is checked stands in vm/checks.sh; each
# prints a line, "ok WHO: WHAT" or "FAIL WHO: WHAT". As root, who can make a disk with the
# owners of another machine. Where KVM can not be used it takes a quarter of an hour.
#
#   ROOTFS=FILE a tar of the machine's root; without it mmdebstrap makes one
#   ACCEL=tcg   do without KVM
#   SECONDS_VM  how long the machine may run until it is reset (1800)
#   KEEP=DIR    keep the console and the answers there
#
# Nothing outside of one temporary directory is changed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
varve=$(realpath "${1:-$here/../bin/varve}")
[ "$(id -u)" = 0 ] || { echo "vm: run it as root" >&2; exit 2; }
[ -x "$varve" ] || { echo "vm: there is no $varve; run make build" >&2; exit 2; }
PATH=$PATH:/usr/sbin:/sbin
for tool in qemu-system-x86_64 mmdebstrap mke2fs; do
	command -v $tool >/dev/null || { echo "vm: there is no $tool; run scripts/setup.sh vm" >&2; exit 2; }
done
export LC_ALL=C.UTF-8
packages=systemd-sysv,dbus,dbus-user-session,libpam-systemd,uidmap,udev,procps,kmod,busybox-static,linux-image-cloud-amd64

dir=$(mktemp -d "${TMPDIR:-/var/tmp}/varve-vm-XXXXXX")
qemu= shown=
finish() {
	status=$?
	trap - EXIT
	set +e
	[ -z "$qemu" ] || kill "$qemu" 2>/dev/null
	[ -z "$shown" ] || kill "$shown" 2>/dev/null
	[ -z "${KEEP:-}" ] || cp "$dir/console" "$dir/answers" "$KEEP/"
	rm -rf "$dir"
	exit $status
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

# machine DIR: makes the image of its disk there, and puts its kernel beside it.
machine() {
	mkdir "$1/root"
	tar -C "$1/root" --exclude='./dev/*' -xpf "$1/root.tar"
	cp -L "$1"/root/vmlinuz "$1"/root/initrd.img "$1/"
	install -m 0755 "$varve" "$1/root/usr/local/bin/varve"
	install -D -m 0755 "$here/vm/checks.sh" "$1/root/usr/local/lib/varve-vm/checks.sh"
	install -m 0644 "$here/vm/checks.service" "$1/root/etc/systemd/system/checks.service"
	ln -s ../checks.service "$1/root/etc/systemd/system/multi-user.target.wants/checks.service"
	echo varve-vm >"$1/root/etc/hostname"
	mke2fs -q -t ext4 -d "$1/root" "$1/disk" 4G >/dev/null
	rm -rf "$1/root"
}

if [ -n "${ROOTFS:-}" ]; then
	ln -s "$(realpath "$ROOTFS")" "$dir/root.tar"
else
	echo "vm: mmdebstrap makes a Debian with systemd and a kernel"
	mmdebstrap --quiet --variant=minbase --include=$packages bookworm "$dir/root.tar"
fi
machine "$dir"

# boot ACCELERATOR: starts the machine, until it is switched off or reset.
boot() {
	timeout "${SECONDS_VM:-1800}" qemu-system-x86_64 -accel "$1" -cpu max,arch-capabilities=off -smp 2 -m 2048 -no-reboot \
		-kernel "$dir/vmlinuz" -initrd "$dir/initrd.img" \
		-append 'root=/dev/vda rw console=ttyS0 quiet panic=-1 systemd.unified_cgroup_hierarchy=1' \
		-drive "file=$dir/disk,format=raw,if=virtio,cache=unsafe" -nic none -display none -monitor none \
		-chardev "file,id=console,path=$dir/console,append=on" -serial chardev:console \
		-chardev "file,id=answers,path=$dir/answers,append=on" -serial chardev:answers </dev/null 2>"$dir/qemu.err" &
	qemu=$!
}

# answers: within half a minute the machine, which is up in a few seconds, has said something.
answers() {
	for _ in {1..300}; do
		[ ! -s "$dir/answers" ] || return 0
		kill -0 "$qemu" 2>/dev/null || return 1
		sleep 0.1
	done
	return 1
}

# ended waits for the machine, and tells whether it ended by itself.
ended() {
	local code=0
	wait "$qemu" || code=$?
	qemu=
	return $code
}

: >"$dir/console"
: >"$dir/answers"
accel=tcg
if [ -w /dev/kvm ] && [ "${ACCEL:-kvm}" = kvm ]; then
	boot kvm
	if answers; then accel=kvm; else kill "$qemu" 2>/dev/null || true; ended || true; fi
fi
tail -c +1 -f "$dir/answers" > >(sed -u 's/\r$//') &
shown=$!
[ $accel = kvm ] || echo "vm: without KVM, which can not be used here; that takes some minutes"
for _ in first second third; do
	[ -n "$qemu" ] || boot $accel
	ended || { echo "vm: the machine did not end by itself" >&2; cat "$dir/qemu.err" >&2; break; }
done
sleep 2 # for what tail has not shown
failed=$(grep -c '^FAIL' "$dir/answers" || true)
if ! grep -q '^end' "$dir/answers"; then
	tail -n 40 "$dir/console" >&2
	echo "FAILED vm: the machine did not come to the end of its checks" >&2
	exit 1
fi
[ "$failed" = 0 ] || { echo "FAILED vm: $failed checks" >&2; exit 1; }
echo "ok vm: $(grep -c '^ok' "$dir/answers") checks"
