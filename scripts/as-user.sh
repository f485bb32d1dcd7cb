#!/bin/sh
# as-user.sh ranged|single SCRIPT: runs SCRIPT on a copy of bin/varve as an
# ordinary user made for it, with subordinate ids or without. As root.
set -eu
cd "$(dirname "$0")/.."
kind=$1 script=$2
user=varvedemo-$$

cleanup() {
	userdel --force "$user" >/dev/null 2>&1 || true
	rm -rf "/home/$user"
}
trap cleanup EXIT
trap 'exit 1' HUP INT TERM

useradd --create-home --user-group --shell /bin/sh "$user"
if [ "$kind" = single ]; then
	for file in subuid subgid; do
		range=$(awk -F: -v u="$user" '$1 == u { print $2 "-" $2 + $3 - 1 }' "/etc/$file")
		[ -z "$range" ] || usermod "--del-${file}s" "$range" "$user"
	done
fi
echo "== as an ordinary user, $kind"
install -o "$user" -g "$user" -m 0755 bin/varve "$script" "/home/$user/"
cd "/home/$user"
env -i HOME="/home/$user" USER="$user" LOGNAME="$user" PATH="$PATH" LANG=C.UTF-8 \
	setpriv --reuid "$user" --regid "$user" --init-groups "./$(basename "$script")" ./varve 2>&1
