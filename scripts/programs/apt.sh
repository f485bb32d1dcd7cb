# apt: fifty packages installed and some purged in a chroot of Debian, compared
# with the same in a plain directory.
. "$(dirname "$0")/lib.sh"
need rsync rsync
need mmdebstrap mmdebstrap
packages='git build-essential python3 vim-tiny less curl rsync sqlite3 man-db locales openssh-client sudo cron debsums
	busybox strace gawk tree xz-utils zstd bc file procps psmisc iproute2 dbus'
purged='cron vim-tiny man-db busybox dbus'

# root_of_debian prints the tar of a Debian root, made once and kept.
root_of_debian() {
	local cache=${XDG_CACHE_HOME:-$(getent passwd 0 | cut -d: -f6)/.cache}/varve-test
	local tar=$cache/debian-bookworm-minbase.tar
	mkdir -p "$cache"
	[ -s "$tar" ] || { mmdebstrap --variant=minbase bookworm "$DIR/root.tar" >&2 && mv "$DIR/root.tar" "$tar"; } ||
		skip "no Debian root is to be had: check the network, or run mmdebstrap --variant=minbase bookworm $tar"
	echo "$tar"
}

# inside ROOT COMMAND…: in a chroot with /proc and a /dev, in namespaces that end with it.
inside() {
	local root=$1
	shift
	unshare --mount --pid --fork --propagation private sh -euc '
		root=$1; shift
		mount -t proc proc "$root/proc"
		mount --rbind /dev "$root/dev"
		mount --bind "$0" "$root/var/cache/apt/archives"
		exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"
	' "$DIR/archives" "$root" "$@" </dev/null
}

# work ROOT: what is done in both.
work() {
	local before after
	before=$(inside "$1" dpkg-query -W | wc -l)
	inside "$1" apt-get install -y --no-install-recommends $packages >"$DIR/apt.log" 2>&1 || fail "apt-get: $(tail -n 20 "$DIR/apt.log")"
	after=$(inside "$1" dpkg-query -W | wc -l)
	installed=$((after - before))
	[ $installed -ge 50 ] || fail "only $installed packages were installed"
	whole "$1"
	inside "$1" apt-get purge -y --autoremove $purged >"$DIR/apt.log" 2>&1 || fail "apt-get purge: $(tail -n 20 "$DIR/apt.log")"
	removed=$((after - $(inside "$1" dpkg-query -W | wc -l)))
	whole "$1"
}

# whole ROOT: dpkg and debsums find every file of every package as it should be.
whole() {
	local said
	said=$(inside "$1" dpkg --audit; inside "$1" dpkg --verify; inside "$1" debsums -s 2>&1) || true
	[ -z "$said" ] || fail "$1: $said"
	inside "$1" apt-get check >/dev/null || fail "$1: apt-get check"
	inside "$1" sh -ec 'git --version; python3 -c "print(6*7)"; echo "int main(){return 0;}" >/tmp/a.c; gcc -o /tmp/a /tmp/a.c; /tmp/a; rm /tmp/a /tmp/a.c' >/dev/null ||
		fail "$1: what was installed does not run"
}

# contents ROOT prints each file with what it holds, but for logs, dates and caches of the run.
contents() {
	(cd "$1" && find . -xdev \( -path ./proc -o -path ./dev -o -path ./tmp -o -path ./var/log -o -path ./var/cache -o -path ./var/lib/apt \) -prune -o \
		-printf '%p %y %m %U:%G %l\n' | grep -v '/__pycache__' | sort)
	(cd "$1" && find . -xdev \( -path ./proc -o -path ./dev -o -path ./tmp -o -path ./var/log -o -path ./var/cache -o -path ./var/lib/apt \) -prune -o \
		-type f ! -path '*/__pycache__/*' ! -name '*-' ! -path ./etc/shadow ! -path './etc/ssh/*key*' ! -path ./etc/machine-id ! -path ./var/lib/dbus/machine-id -print0 |
		sort -z | xargs -0 sha256sum)
}

mkdir -p "$DIR/plain" "$DIR/archives/partial"
debian=$(root_of_debian)
tar -C "$DIR/plain" --numeric-owner --xattrs --xattrs-include='*' -xpf "$debian"
cp /etc/resolv.conf "$DIR/plain/etc/resolv.conf"
printf '#!/bin/sh\nexit 101\n' >"$DIR/plain/usr/sbin/policy-rc.d" && chmod 755 "$DIR/plain/usr/sbin/policy-rc.d"
inside "$DIR/plain" apt-get update >"$DIR/apt.log" 2>&1 || skip "no archive of Debian is to be reached: $(tail -n 2 "$DIR/apt.log")"
split "$DIR/plain"
before=$(fingerprint "$DIR"/l[123])
mount_view
work "$DIR/plain"
work "$view"
diff <(contents "$DIR/plain") <(contents "$view") >"$DIR/differs" || fail "the roots differ: $(head -n 20 "$DIR/differs")"
unmount_view
mount_view
whole "$view"
diff <(contents "$DIR/plain") <(contents "$view") >"$DIR/differs" || fail "after a remount the roots differ: $(head -n 20 "$DIR/differs")"
unmount_view
layers_kept "$before"
say "$installed packages installed, $removed purged or with them; dpkg --audit, --verify and debsums find nothing, also after a remount; the root is as in a plain directory"
