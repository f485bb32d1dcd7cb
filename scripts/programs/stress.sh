# stress: stress-ng's stressors of the classes filesystem and io that work on
# files, each for two seconds with --verify. What fails is run on a plain
# directory, too: it counts when it fails in the view only.
. "$(dirname "$0")/lib.sh"
need stress-ng stress-ng
need rsync rsync
each=${SECONDS_STRESS:-2}

# Left out, with what they work on in the place of the files of a directory.
excluded='bind-mount: mounts of the machine
binderfs: a file system of its own
dup: descriptors alone
eventfd: descriptors alone
fanotify: marks mounts of the machine
ioprio: priorities of processes
procfs: /proc
rawdev: block devices
verity: FS_IOC_ENABLE_VERITY, which ext4 here has not either'
excluded_names=$(sed 's/:.*//' <<<"$excluded")

# classes prints the stressors of the two classes that are to run.
classes() {
	{ stress-ng --class 'filesystem?'; stress-ng --class 'io?'; } | sed 's/.*stressors: //' | tr ' ' '\n' | grep . | sort -u |
		grep -vxF "$excluded_names"
}

# stressed STRESSOR DIRECTORY: 0 is well, 3 and 4 not to be had here. io-uring
# looks for its file by a path that is wrong unless the directory is the current one.
stressed() {
	cd "$2" && stress-ng --"$1" 2 --verify --timeout "$each" --temp-path . --hdd-bytes 16M --iomix-bytes 16M --readahead-bytes 16M \
		--seek-size 16M --revio-bytes 16M --sync-file-bytes 16M --fallocate-bytes 16M --copy-file-bytes 128M --fiemap-bytes 16M >"$DIR/$1.out" 2>&1
}

mkdir "$DIR/plain" "$DIR/other"
for n in {1..60}; do echo "file $n" >"$DIR/plain/$n"; done
split "$DIR/plain"
before=$(fingerprint "$DIR"/l[123])
mount_view
ran=0 absent='' alike='' broken=''
for s in $(classes); do
	status=0
	(stressed "$s" "$view") || status=$?
	kill -0 $server || fail "the server died in $s"
	case $status in
	0) ran=$((ran + 1)) ;;
	3 | 4) absent="$absent $s" ;;
	*)
		cat "$DIR/$s.out" >&2
		if (stressed "$s" "$DIR/other"); then broken="$broken $s($status)"; else alike="$alike $s"; fi
		;;
	esac
done
[ $ran -gt 40 ] || fail "only $ran stressors ran"
[ -z "$broken" ] || fail "these fail in the view and not in a plain directory:$broken"
same_tree "$DIR/plain" "$view"
unmount_view
mount_view
same_tree "$DIR/plain" "$view"
unmount_view
layers_kept "$before"
say "$ran stressors of $each s with --verify;${alike:+ fail in a plain directory too:$alike;}${absent:+ not to be had here:$absent;} left out: $(sed 's/: / (/; s/$/)/' <<<"$excluded" | paste -sd\ )"
