# single: ten packages with users of their own, installed by apt-get in a container of an
# ordinary user who has no subordinate ids, then commit, save and podman load: the owners
# are those of the same packages in a chroot.
. "$(dirname "$0")/lib.sh"
need mmdebstrap mmdebstrap
need podman podman
need useradd passwd
packages='postfix redis-server nginx-light man-db chrony at dbus openssh-server postgresql-common uuid-runtime'
cache=${XDG_CACHE_HOME:-$(getent passwd 0 | cut -d: -f6)/.cache}/varve-test
debian=$cache/debian-bookworm-minbase.tar
mkdir -p "$cache"
[ -s "$debian" ] || { mmdebstrap --variant=minbase bookworm "$DIR/root.tar" >&2 && mv "$DIR/root.tar" "$debian"; } ||
	skip "no Debian root is to be had: check the network, or run mmdebstrap --variant=minbase bookworm $debian"

user=varvesingle$$
useradd --create-home --shell /bin/sh "$user" || fail useradd
pods="podman --root $DIR/pods/root --runroot $DIR/pods/run --tmpdir $DIR/pods/tmp --storage-driver vfs"
before_finish() {
	[ -d "$DIR/pods" ] && $pods image umount -a >/dev/null && $pods rmi -a -f >/dev/null
	userdel --force --remove "$user" 2>/dev/null
}
for kind in uid gid; do
	awk -F: -v u="$user" '$1 == u { print $2 "-" $2 + $3 - 1 }' /etc/sub$kind | while read -r range; do
		usermod --del-sub${kind}s "$range" "$user"
	done
done
home=$(getent passwd "$user" | cut -d: -f6)
cp "$VARVE" "$home/varve"
as() { (cd "$home" && setpriv --reuid "$user" --regid "$user" --init-groups env -i PATH="$PATH" HOME="$home" ./varve "$@"); }

install='printf "#!/bin/sh\nexit 101\n" >/usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d &&
	apt-get update && apt-get install -y --no-install-recommends '$packages' && dpkg --audit >/audit && apt-get check'
mkdir "$DIR/plain"
tar -C "$DIR/plain" --numeric-owner --xattrs --xattrs-include='*' -xpf "$debian"
cp /etc/resolv.conf /etc/hosts "$DIR/plain/etc"
unshare --mount --pid --fork --propagation private sh -euc '
	mount -t proc proc "$0/proc"
	mount --rbind /dev "$0/dev"
	exec chroot "$0" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive sh -c "$1"
' "$DIR/plain" "$install" </dev/null >"$DIR/apt.log" 2>&1 || skip "no archive of Debian is to be reached: $(tail -n 2 "$DIR/apt.log")"

as import - deb:1 <"$debian" >/dev/null || fail import
as run --name apt -e LC_ALL=C -e DEBIAN_FRONTEND=noninteractive deb:1 sh -c "$install" >"$DIR/apt.log" 2>&1 || fail "apt-get: $(tail -n 20 "$DIR/apt.log")"
{ as commit apt deb:2 && as save -o "$home/image.tar" deb:2; } >/dev/null || fail "commit, save"
as rm apt >/dev/null && as rmi deb:2 deb:1 >/dev/null || fail "rm, rmi"
$pods load -i "$home/image.tar" >/dev/null || fail "podman load"
loaded=$($pods image mount deb:2) || fail "podman image mount"
[ ! -s "$loaded/audit" ] || fail "dpkg --audit: $(cat "$loaded/audit")"

# Two names of one certificate come in the order of a directory.
owners() {
	(cd "$1" && find . -xdev \( -path ./proc -o -path ./dev -o -path ./sys -o -path ./tmp \) -prune -o -printf '%p %y %m %U:%G\n') |
		grep -Ev '^\./etc/(hosts|hostname|resolv\.conf|ssl/certs/)' | sort
}
diff <(owners "$DIR/plain") <(owners "$loaded") >"$DIR/differs" || fail "the owners differ: $(head -n 20 "$DIR/differs")"
theirs=$(owners "$loaded" | grep -vc ' 0:0$')
[ "$theirs" -ge 100 ] || fail "only $theirs files are not root's"
say "ten packages with a single id; $theirs files of other owners are as in a chroot, after commit, save and podman load"
