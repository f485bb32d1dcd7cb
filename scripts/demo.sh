#!/bin/sh
# demo.sh VARVE: the main job, each step said in one line, each claim checked.
# It works in a store of its own below a temporary directory, which it removes.
# Exit status 1 when a claim is false.
set -u
export LC_ALL=C

varve=$(realpath "${1:-bin/varve}")
tmp=$(mktemp -d "${TMPDIR:-/tmp}/varve-demo-XXXXXX") || exit 1
export VARVE_ROOT="$tmp/store"
aim=60 # milliseconds for a whole run of true
rounds=15

if [ -t 1 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); else bold='' plain=''; fi
claims=0

step() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
false_claim() { printf '  FALSE %s\n' "$*"; exit 1; }

# claim TEXT COMMAND…: the command must succeed.
claim() {
	text=$1
	shift
	"$@" || false_claim "$text"
	claims=$((claims + 1))
	printf '  ok    %s\n' "$text"
}

# v VERB…: runs varve, showing the command; it must succeed.
v() {
	shown varve "$@"
	"$varve" "$@" 3>&- || false_claim "varve $1 succeeds (it gave $?)"
}

# shown WORD…: prints a command as one would type it, also when the output of
# the command itself goes to a file.
exec 3>&1
shown() { shown_words "$@" >&3; }
shown_words() {
	printf '  $'
	for word; do
		case $word in
		*[!A-Za-z0-9_./:=@,-]* | '') printf " '%s'" "$word" ;;
		*) printf ' %s' "$word" ;;
		esac
	done
	printf '\n'
}

same() { [ "$1" = "$2" ] || { printf '  have: %s\n  want: %s\n' "$1" "$2"; false; }; }
same_lines() { diff -u "$1" "$2"; }
absent() { ! { [ -e "$1" ] || [ -L "$1" ]; }; }

cleanup() {
	status=$?
	trap - EXIT
	if [ -e "$VARVE_ROOT" ]; then # through varve: files of mapped ids are not ours to remove
		for id in $("$varve" ps -a -q --no-trunc 2>/dev/null); do "$varve" rm -f "$id" >/dev/null 2>&1; done
	fi
	rm -rf "$tmp"
	exit "$status"
}
trap cleanup EXIT
trap 'exit 1' HUP INT TERM

# fingerprint FILE…: content, owner, mode and time of files of the host.
fingerprint() { stat -c '%n %u:%g %a %Y %s' "$@" 2>/dev/null; sha256sum "$@" 2>/dev/null; }

# first_of FILE…: the first that exists on this machine.
first_of() { for file; do [ -e "$file" ] && { echo "$file"; return; }; done; }

removed=$(first_of /etc/issue /etc/fstab /etc/os-release)
changed=$(first_of /etc/motd /etc/profile /etc/group)

echo "varve: a union file system in user space, and containers on top of it"
echo "(as $(id -un), store in $VARVE_ROOT)"

step "1. One static binary, no daemon, no set-up."
v version
claim "it needs no shared library" sh -c "! ldd '$varve' 2>/dev/null | grep -q '=>'"

step "2. A container from this machine's own files: write a file, remove one, change one."
before=$(fingerprint "$removed" "$changed")
v run --name first host sh -c "echo happy > /happiness.txt; rm $removed; echo more >> $changed"

step "3. What it wrote lies in its upper layer, as plain files; the host is as it was."
id=$("$varve" ps -a -q --no-trunc) || false_claim "varve ps lists the container"
upper="$VARVE_ROOT/containers/$id/upper"
shown cat "containers/$(echo "$id" | cut -c 1-12)…/upper/happiness.txt"
cat "$upper/happiness.txt"
claim "the file is found on the host, under the container's upper" same "$(cat "$upper/happiness.txt")" happy
claim "there is no /happiness.txt on the host" absent /happiness.txt
claim "the host's $removed and $changed are as they were" same "$(fingerprint "$removed" "$changed")" "$before"

step "4. What changed, as docker diff says it: A added, C changed, D deleted."
v diff first >"$tmp/diff"
cat "$tmp/diff"
sort "$tmp/diff" >"$tmp/have"
printf '%s\n' "A /happiness.txt" "C /etc" "C $changed" "D $removed" | sort >"$tmp/want"
claim "these changes and no others" same_lines "$tmp/want" "$tmp/have"

step "5. Keep it: the upper becomes a layer on top of the host's, with a parent pointer and a message."
v commit -m "first layer" first mine:1
v history mine:1 >"$tmp/history"
cat "$tmp/history"
claim "the history has the layer with its message, over the host's" sh -c \
	"sed -n 2p '$tmp/history' | grep -q 'first layer' && [ \$(wc -l <'$tmp/history') = 3 ]"
claim "a container of it has the file" same "$("$varve" run --rm mine:1 cat /happiness.txt)" happy
claim "and not the removed one" "$varve" run --rm mine:1 sh -c "! test -e $removed"
claim "save refuses to pack this machine and names export" sh -c \
	"! '$varve' save -o '$tmp/no.tar' mine:1 2>'$tmp/refusal' && grep -q export '$tmp/refusal' && ! test -e '$tmp/no.tar'"
sed 's/^/        /' "$tmp/refusal"

step "6. The same on a root file system of its own: a static busybox, imported from a tar file."
busybox=$(command -v busybox) || false_claim "busybox is there: apt-get install busybox-static"
mkdir -p "$tmp/root/bin" "$tmp/root/etc" "$tmp/root/proc" "$tmp/root/sys" "$tmp/root/dev" "$tmp/root/tmp"
cp "$busybox" "$tmp/root/bin/busybox"
for applet in $("$busybox" --list); do [ "$applet" = busybox ] || ln -s busybox "$tmp/root/bin/$applet"; done
echo small >"$tmp/root/etc/issue"
touch "$tmp/root/etc/hosts" "$tmp/root/etc/hostname" "$tmp/root/etc/resolv.conf" # the container mounts its own there
echo welcome >"$tmp/root/etc/motd"
tar -C "$tmp/root" --owner=0 --group=0 -cf "$tmp/busybox.tar" .
v import "$tmp/busybox.tar" small:1
# The last command lists the view from inside, to be compared with the export.
v run --name second small:1 sh -c \
	'echo happy > /happiness.txt; rm /etc/issue; echo more >> /etc/motd; find / -xdev' >"$tmp/inside"
sed 's|^/||' "$tmp/inside" | grep . | sort >"$tmp/view"

step "7. Flatten it: the whole view as one tar."
v export -o "$tmp/first.tar" second
tar -tf "$tmp/first.tar" | sed 's|^\./||; s|/$||' | grep . | sort >"$tmp/list"
claim "the tar lists what the view lists ($(wc -l <"$tmp/view") names)" same_lines "$tmp/view" "$tmp/list"
v import "$tmp/first.tar" back:1
claim "and reads back: a container of it has the changed file" \
	same "$("$varve" run --rm back:1 cat /etc/motd)" "$(printf 'welcome\nmore')"

step "8. Keep every layer: a docker and OCI archive of the committed image."
v commit -m "second layer" second small:2
v save -o "$tmp/mine.tar" small:2
mkdir "$tmp/archive"
tar -C "$tmp/archive" -xf "$tmp/mine.tar"
claim "it is both an OCI layout and a docker archive" sh -c \
	"cd '$tmp/archive' && test -f oci-layout && test -f index.json && test -f manifest.json"
claim "every blob has the digest it is named by" sh -c \
	"cd '$tmp/archive/blobs/sha256' && for b in *; do [ \$(sha256sum <\$b | cut -d' ' -f1) = \$b ] || exit 1; done"
config=$(grep -o '"Config":"[^"]*"' "$tmp/archive/manifest.json" | cut -d'"' -f4)
diffs=$(grep -o '"diff_ids":\[[^]]*\]' "$tmp/archive/$config" | grep -o 'sha256:[0-9a-f]*' | cut -d: -f2)
claim "its config names two layers" same "$(echo "$diffs" | wc -l)" 2
for diff in $diffs; do
	claim "layer $(echo "$diff" | cut -c 1-12) is there: $(tar -tf "$tmp/archive/blobs/sha256/$diff" | wc -l) names" \
		test -s "$tmp/archive/blobs/sha256/$diff"
done
claim "and the metadata: the message of the second" grep -q '"comment":"second layer"' "$tmp/archive/$config"
claim "the removal is a whiteout in the top layer" sh -c \
	"tar -tf '$tmp/archive/blobs/sha256/$(echo "$diffs" | tail -n 1)' | grep -qx 'etc/.wh.issue'"

step "9. How long 'varve run --rm small:1 true' takes, whole process."
i=0
while [ $i -lt $rounds ]; do
	start=$(date +%s%N)
	"$varve" run --rm small:1 true || false_claim "true succeeds"
	end=$(date +%s%N)
	echo $(((end - start) / 10000))
	i=$((i + 1))
done | sort -n >"$tmp/times"
[ "$(wc -l <"$tmp/times")" = $rounds ] || false_claim "$rounds runs of true succeed"
at() { sed -n "$1p" "$tmp/times" | sed 's/\(..\)$/.\1/'; }
printf '  median of %d runs: %s ms (fastest %s, slowest %s; aim: under %d ms)\n' \
	"$rounds" "$(at $(((rounds + 1) / 2)))" "$(at 1)" "$(at $rounds)" "$aim"
[ "$(sed -n "$(((rounds + 1) / 2))p" "$tmp/times")" -lt "${aim}00" ] || printf '  slower than the aim on this machine, at this moment\n'

step "10. Take it away again: nothing is left."
v rm first second
v rmi mine:1 small:1 small:2 back:1 >"$tmp/rmi"
grep -c '^Deleted' "$tmp/rmi" | sed 's/^/  deleted: /'
claim "no container is left" same "$("$varve" ps -a -q)" ""
claim "no mount is left" sh -c "! grep -q '$tmp' /proc/self/mountinfo"
claim "no layer directory is left" same "$(ls "$VARVE_ROOT/layers" 2>/dev/null)" ""

printf '\n%d claims checked, all true.\n' "$claims"
