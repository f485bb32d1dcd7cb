# lib.sh: what the programs share. Sourced by each of them, which programs.sh
# runs with DIR, an empty directory of its own, NAME, VARVE, IO and OPTIONS.
set -eEuo pipefail
umask 022
export HOME=$DIR DEBIAN_FRONTEND=noninteractive
view=$DIR/view upper=$DIR/upper
servers='' server=''

say() { printf '%s' "$*" >&4; }
fail() { printf '%s\n' "$*" >&2; exit 1; }
skip() { say "$*"; exit 77; }
trap 'echo "line $LINENO of $NAME.sh failed: $BASH_COMMAND" >&2' ERR
trap finish EXIT
trap 'exit 1' HUP INT TERM
# finish ends what a failed program left running: its jobs and its view. A
# program adds its own end as a function before_finish.
finish() {
	status=$?
	trap - EXIT ERR
	set +eu
	! declare -F before_finish >/dev/null || before_finish
	for job in $(jobs -p); do [ "$job" = "$server" ] || kill -9 "$job" 2>/dev/null; done
	if mountpoint -q "$view" || [ -n "$server" ]; then umount "$view" || umount -l "$view"; fi
	for _ in {1..100}; do [ -n "$server" ] && kill -0 "$server" 2>/dev/null && sleep 0.1; done
	[ -z "$server" ] || kill -9 "$server" 2>/dev/null # unmounted, and still there
	wait
	exit $status
}

# need PROGRAM PACKAGE: installs the package if the program is not there.
need() {
	command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] && return
	command -v apt-get >/dev/null || skip "needs $1, of the Debian package $2"
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends "$2"; } >&2 ||
		skip "needs $1: run apt-get install $2"
}

# copy FROM TO: the tree with all that a file has.
copy() { mkdir -p "$2" && rsync -aHAXS --numeric-ids "$1/" "$2/"; }

# split TREE: makes of it the layers l1 (lowest), l2 and l3. Each file is in one
# of them, with all its names; the directories are in all. l1 has older files
# below those of l2, names that l2 and l3 hide in both dialects, a directory
# hidden whole, and one that is opaque. The view shows what TREE was.
split() {
	local tree=$1 k n=0 type inode links name
	mkdir -p "$DIR/l1" "$DIR/l2" "$DIR/l3"
	: | tee "$DIR/list1" "$DIR/list2" >"$DIR/list3"
	while IFS=/ read -r -d '' type inode links name; do
		n=$((n + 1))
		case $type in
		d) k='1 2 3' ;;
		*) if [ "$links" -gt 1 ]; then k=$((2 + inode % 2)); else k=$((1 + n % 3)); fi ;;
		esac
		for k in $k; do printf '%s\0' "$name" >>"$DIR/list$k"; done
	done < <(find "$tree" -mindepth 1 -printf '%y/%i/%n/%P\0')
	for k in 1 2 3; do
		rsync -aHAXS --numeric-ids --no-r --from0 --files-from="$DIR/list$k" "$tree/" "$DIR/l$k/"
	done
	older
	hidden
	for k in 1 2 3; do # what older and hidden did to the times of the directories
		(cd "$tree" && find . -depth -type d -exec sh -c 'for d; do touch -r "$d" "$0/$d"; done' "$DIR/l$k" {} +)
		touch -r "$tree" "$DIR/l$k"
	done
	rm -f "$DIR"/list?
}

# older puts other files below some of l2's.
older() {
	find "$DIR/l2" -type f -links 1 -printf '%P\0' | while IFS= read -r -d '' name; do
		[ $((RANDOM % 8)) != 0 ] || echo "older $name" >"$DIR/l1/$name"
	done
}

# hidden puts names into l1 that the layers above hide.
hidden() {
	local dir n=0
	while IFS= read -r -d '' dir; do
		[ $((n += 1)) -le 60 ] || break
		echo hidden | tee "$DIR/l1/$dir/hidden-$n" >"$DIR/l1/$dir/gone-$n"
		mknod "$DIR/l2/$dir/hidden-$n" c 0 0
		: >"$DIR/l3/$dir/.wh.gone-$n"
	done < <(cd "$DIR/l1" && find . -type d -print0 || true)
	mkdir -p "$DIR/l1/all-hidden/below" && echo hidden >"$DIR/l1/all-hidden/below/file"
	mknod "$DIR/l3/all-hidden" c 0 0
	opaque
}

# opaque makes the first directory of l2 that has no file in l1 opaque, and puts
# a file below it; a directory with others below it would hide them.
opaque() {
	local dir
	while IFS= read -r -d '' dir; do
		[ -z "$(find "$DIR/l1/$dir" -mindepth 1 ! -name 'hidden-*' ! -name 'gone-*' -print -quit)" ] || continue
		setfattr -n trusted.overlay.opaque -v y "$DIR/l2/$dir"
		echo hidden >"$DIR/l1/$dir/below-opaque"
		return
	done < <(cd "$DIR/l2" && find . -mindepth 1 -type d -print0)
}

# fingerprint DIRECTORY…: one line that changes with any change to the trees.
# tar leaves out sockets, change times and the count of names.
fingerprint() {
	{
		for d; do
			find "$d" -printf '%p %y %m %U:%G %s %n %i %T@ %C@ %l\0' | sort -z
			tar -C "$d" --sort=name --numeric-owner --xattrs --xattrs-include='*' --acls \
				--pax-option='exthdr.name=%d/%f,delete=atime,delete=ctime' -cf - . 2>/dev/null
		done
	} | sha256sum
}

# mount_view [LAYER…]: mounts a view of the layers (l3 l2 l1) and the upper.
# Its server is $server, until unmount_view or kill_view.
mount_view() {
	local layers=${*:-l3 l2 l1} lower='' k
	for k in $layers; do lower=$lower:$DIR/$k; done
	mkdir -p "$view" "$upper" "$DIR/work"
	"$VARVE" mount -f -o "lowerdir=${lower#:},upperdir=$upper,workdir=$DIR/work,io=$IO,dev,suid,allow_other${OPTIONS:+,$OPTIONS}" "$view" &
	server=$!
	until mountpoint -q "$view"; do
		kill -0 $server || fail "the view was not mounted"
		sleep 0.02
	done
}

# unmount_view ends the view as people do; the server must then leave with 0.
unmount_view() {
	kill -0 $server || fail "the server died"
	umount "$view" || fail "unmount: $(ls -l /proc/[0-9]*/cwd /proc/[0-9]*/fd 2>/dev/null | grep -F "$view" | head)"
	wait $server || fail "the server left with $?"
	server=''
}

# kill_view kills the server under what runs in the view, and unmounts.
kill_view() {
	kill -9 $server 2>/dev/null || true # the program may have been at it
	wait $server || true
	umount -l "$view"
	server=''
}

# layers_kept BEFORE: the layers are what they were.
layers_kept() { [ "$(fingerprint "$DIR"/l[123])" = "$1" ] || fail "the lower layers changed"; }

# listing TREE: names, types, modes, owners, sizes of files, links.
listing() {
	(cd "$1" && find . \( -type d -printf '%p d %m %U:%G\n' -o -type f -printf '%p f %m %U:%G %s %n\n' -o -printf '%p %y %m %U:%G %l\n' \) | sort)
}

# same_tree A B: the same names with the same content.
same_tree() {
	diff <(listing "$1") <(listing "$2") | head -n 20 >&2 || fail "the trees $1 and $2 differ"
	diff -r --no-dereference --brief "$1" "$2" >&2 || fail "files of $1 and $2 differ"
}
