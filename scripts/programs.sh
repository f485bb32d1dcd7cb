#!/bin/bash
# programs.sh [NAME…]: real programs inside a view whose names are partly in the
# lower layers and partly in the upper. Each is a file under scripts/programs/
# and prints one line: "ok NAME what was checked", or "FAILED NAME" after what
# differed. Without names all run. As root, after `make build`.
#
#   IO=cached|writeback|passthrough|plain   how the views do I/O (cached)
#   OPTIONS=OPTION[,OPTION…]                other options of the views
#   PROGRAMS_DIR=DIR    where the trees are made (/var/tmp): a real file system
#   SECONDS_PGBENCH=60  how long pgbench runs; SECONDS_STRESS=2 one stressor
#   VARVE=FILE          the binary (bin/varve)
# and what the files name in their first lines, for less: COMMITS, FILES, ROWS, SIZE.
#
# Nothing is left behind but the packages it installs with apt-get, and the root
# file system of the program apt in ~/.cache/varve-test.
set -u
here=$(cd "$(dirname "$0")" && pwd)
export LC_ALL=C
export VARVE=$(realpath "${VARVE:-$here/../bin/varve}")
export IO=${IO:-cached} OPTIONS=${OPTIONS:-}
all=$(cd "$here/programs" && for f in *.sh; do [ "$f" = lib.sh ] || echo "${f%.sh}"; done)

for name in "$@"; do
	[ -f "$here/programs/$name.sh" ] && [ "$name" != lib ] && continue
	echo "programs: there is no $name; there are:" $all >&2
	exit 2
done
[ "$(id -u)" = 0 ] || { echo "programs: run it as root: it mounts, and makes device nodes" >&2; exit 2; }
[ -x "$VARVE" ] || { echo "programs: there is no $VARVE; run make build" >&2; exit 2; }

tmp=$(mktemp -d "${PROGRAMS_DIR:-/var/tmp}/varve-programs-XXXXXX") || exit 1
chmod 755 "$tmp" # the database server is another user
cleanup() {
	trap - EXIT
	if grep -q " $tmp/" /proc/self/mountinfo; then
		echo "programs: there are mounts left below $tmp, so it stays" >&2
		exit 1
	fi
	rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 1' HUP INT TERM

# left DIR prints what a program left behind: mounts, processes.
left() {
	awk -v d="$1/" 'index($5, d) == 1 { print "a mount: " $5 }' /proc/self/mountinfo
	for p in /proc/[0-9]*; do
		[ "${p#/proc/}" != $$ ] && tr '\0' ' ' 2>/dev/null <"$p/cmdline" | grep -F "$1/" | sed "s|^|process ${p#/proc/}: |"
	done
}

failed=
for name in ${*:-$all}; do
	mkdir "$tmp/$name"
	start=$SECONDS
	DIR=$tmp/$name NAME=$name bash "$here/programs/$name.sh" >"$tmp/$name.out" 2>"$tmp/$name.err" 4>"$tmp/$name.said"
	status=$?
	left=$(left "$tmp/$name")
	if [ $status = 77 ]; then
		echo "skipped $name $(cat "$tmp/$name.said")"
	elif [ $status = 0 ] && [ -z "$left" ]; then
		echo "ok $name io=$IO${OPTIONS:+ $OPTIONS}: $(cat "$tmp/$name.said") ($((SECONDS - start)) s)"
	else
		failed="$failed $name"
		tail -n 40 "$tmp/$name.out" "$tmp/$name.err" | sed 's/^/    /'
		[ -z "$left" ] || printf 'left behind: %s\n' "$left"
		echo "FAILED $name io=$IO${OPTIONS:+ $OPTIONS}: exit status $status"
	fi
	rm -rf "${tmp:?}/$name"
done
[ -z "$failed" ] || { echo "programs: failed:$failed"; exit 1; }
