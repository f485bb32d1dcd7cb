#!/bin/bash
# start-profile.sh: where the milliseconds of `varve run --rm IMAGE true` go. As root,
# after `make build`; needs strace and a static busybox. It prints, of the quickest of
# ROUNDS (10) runs, when each milestone was reached and how long it took from the one
# before. strace stops only the calls that are milestones, which costs some
# milliseconds: the last line says how long a run takes without it.
#
#   VARVE=FILE   the binary (bin/varve)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
varve=$(realpath "${VARVE:-$here/../bin/varve}")
rounds=${ROUNDS:-10}
[ "$(id -u)" = 0 ] || { echo "start-profile: run it as root: strace may not follow the helpers of users" >&2; exit 2; }
for tool in strace busybox; do
	command -v "$tool" >/dev/null || { echo "start-profile: there is no $tool; run apt-get install $tool" >&2; exit 2; }
done
[ -x "$varve" ] || { echo "start-profile: there is no $varve; run make build" >&2; exit 2; }

dir=$(mktemp -d)
export VARVE_ROOT=$dir/store
trap '"$varve" rmi -f profile:1 >/dev/null 2>&1 || true; rm -rf "$dir"' EXIT
mkdir -p "$dir/root/bin" "$dir/root/etc"
cp "$(command -v busybox)" "$dir/root/bin/busybox"
ln -s busybox "$dir/root/bin/true"
tar -C "$dir/root" -cf "$dir/root.tar" .
"$varve" import "$dir/root.tar" profile:1 >/dev/null
"$varve" run --rm profile:1 true # the index is made now

calls=execve,mkdirat,mount,fsopen,pivot_root,seccomp,exit_group,umount2,unlinkat
best=
for i in $(seq "$rounds"); do
	strace -f --seccomp-bpf -qq -ttt -e signal=none -e trace=$calls -o "$dir/trace.$i" "$varve" run --rm profile:1 true
	took=$(awk 'NR == 1 { first = $2 } { last = $2 } END { printf "%d", (last - first) * 1000000 }' "$dir/trace.$i")
	if [ -z "$best" ] || [ "$took" -lt "$best" ]; then best=$took; cp "$dir/trace.$i" "$dir/best"; fi
done

awk '
function at(what) {
	if (!begin) begin = $2
	printf "%8.1f ms  %+6.1f  %s\n", ($2 - begin) * 1000, (last ? $2 - last : 0) * 1000, what
	last = $2
}
/execve\(/ && /"run"/            { at("varve run begins") }
/execve\(/ && /"supervise"/      { at("the supervisor begins") }
/mount\(/ && /"fuse/             { at("the view is mounted") }
/mkdir/ && /varve-/ && /cgroup/  { at("the control group is made") }
/execve\(/ && /"varve-init"/     { at("the init stage begins") }
/fsopen\("proc"/                 { at("the init stage opens what comes from outside") }
/pivot_root/                     { at("the root is entered") }
/seccomp\(/                      { at("the filter of system calls is loaded") }
/execve\(/ && /\["true"/         { at("the program begins") ; program = $1 }
/exit_group/ && $1 == program    { at("the program ends") }
/umount2/ && /view/              { at("the view is unmounted") }
/unlinkat/ && /cgroup/ && !gone     { at("the control group is removed"); gone = 1 }
END                              { at("varve run ends") }
' "$dir/best"

begin=$(date +%s%N)
for i in $(seq "$rounds"); do "$varve" run --rm profile:1 true; done
tenths=$((($(date +%s%N) - begin) / rounds / 100000))
echo "without strace one run takes $((tenths / 10)).$((tenths % 10)) ms"
