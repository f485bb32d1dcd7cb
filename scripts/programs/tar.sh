# tar: tar and rsync of a tree with everything a file can have, both ways.
. "$(dirname "$0")/lib.sh"
need rsync rsync
need setfacl acl
need setfattr attr
need setcap libcap2-bin
need perl perl-base

# In io=writeback a file of the view has no holes for SEEK_HOLE (docs/posix.md).
holes=seek
[ "$IO" != writeback ] || holes=raw

# everything makes the tree. No file is called wh or wh.SOMETHING: rsync would
# first write .wh.SOMETHING.RANDOM, which no view takes (docs/posix.md).
everything() {
	local t=$1 n long
	long=$(printf '%0250dname' 0)
	mkdir -p "$t"/{data,links,special,attrs,times,names,many,deep,modes}
	for n in {1..300}; do echo "file $n" >"$t/many/$n"; done
	head -c 3000000 /dev/urandom >"$t/data/big"
	: >"$t/data/empty"
	truncate -s 64M "$t/data/sparse"
	for n in 1 9 33; do printf 'island %d' $n | dd of="$t/data/sparse" bs=1M seek=$n conv=notrunc status=none; done
	truncate -s 9M "$t/data/hole-only"
	echo linked >"$t/links/a"
	ln "$t/links/a" "$t/links/b" && ln "$t/links/a" "$t/deep/c"
	ln -s a "$t/links/symlink" && ln -s /nowhere/at/all "$t/links/dangling" && ln "$t/links/symlink" "$t/links/symlink2"
	ln -s "$(printf 'x%.0s' {1..3000})" "$t/links/long" 2>/dev/null
	mkfifo -m 640 "$t/special/fifo"
	mknod "$t/special/null" c 1 3 && mknod "$t/special/disk" b 7 200 && mknod "$t/special/big" c 4000 1000000
	perl -MSocket -e 'socket(my $s, PF_UNIX, SOCK_STREAM, 0); chdir $ARGV[0]; bind($s, sockaddr_un("socket")) or die $!' "$t/special"
	ln "$t/special/fifo" "$t/special/fifo2"
	cp /bin/true "$t/attrs/capable" && setcap cap_net_raw,cap_sys_admin+ep "$t/attrs/capable"
	echo acl >"$t/attrs/acl" && setfacl -m u:1234:rw,g:4321:x,m::rwx "$t/attrs/acl"
	mkdir "$t/attrs/default" && setfacl -d -m u:77:rwx,o::- "$t/attrs/default" && echo x >"$t/attrs/default/inherits"
	echo x >"$t/attrs/user" && setfattr -n user.one -v 1 "$t/attrs/user" && setfattr -n user.empty "$t/attrs/user"
	setfattr -n user.binary -v 0x00ff00fe0a "$t/attrs/user" && setfattr -n trusted.mine -v t "$t/attrs/user"
	setfattr -n user.big -v "$(printf 'v%.0s' {1..2000})" "$t/attrs/user" && setfattr -n user.dir -v d "$t/attrs"
	setfattr -h -n trusted.link -v l "$t/links/dangling"
	for n in '1901-12-14 00:00:01' '1969-12-31 23:59:59.999999999' '1970-01-01 00:00:00' '2038-01-19 03:14:08.5' '2262-04-01 01:02:03.000000001'; do
		echo "$n" >"$t/times/$n" && touch -d "$n UTC" "$t/times/$n"
	done
	# rsync keeps whole seconds of what is neither file nor directory.
	find "$t" ! -type f ! -type d -exec touch -h -d '1999-01-01 00:00:07 UTC' {} +
	echo long >"$t/names/$long"
	mkdir "$t/names/dir$(printf '%0250d' 0)"
	echo odd >"$t/names/"$'new\nline\ttab\\back"quote \xff\xfe'
	echo dash >"$t/names/-rf" && echo u >"$t/names/ünïcödé"
	(cd "$t/deep" && for n in {1..12}; do mkdir "$(printf 'd%0200d' "$n")" && cd d* && echo "$n" >file; done)
	for n in 0000 0444 0711 4755 2755 6111 1777 7777; do echo $n >"$t/modes/$n" && chown 1000:2000 "$t/modes/$n" && chmod $n "$t/modes/$n"; done
	mkdir -m 1777 "$t/modes/sticky" && mkdir -m 2775 "$t/modes/setgid" && chown 4000000000:7 "$t/modes/setgid"
	touch -d '2001-02-03 04:05:06.7 UTC' "$t/data" "$t/attrs" "$t"
}

# sorted_records puts the records of each extended header of an archive in order,
# since the order in which a file system lists attributes is its own affair, and
# takes the process id out of the names that tar gives sparse files.
sorted_records() {
	perl -e '
		binmode STDIN; binmode STDOUT;
		while (read(STDIN, my $head, 512) == 512) {
			my $size = oct(substr($head, 124, 12) =~ s/[\0 ].*//sr);
			read(STDIN, my $data, my $padded = ($size + 511) & ~511);
			if (substr($head, 156, 1) eq "x") {
				my @records;
				for (my $rest = substr($data, 0, $size); $rest =~ /^(\d+) /; ) { push @records, substr($rest, 0, $1, "") }
				$data = pack("a$padded", join("", sort @records));
			}
			if ((my $name = unpack("Z100", $head)) =~ s/GNUSparseFile\.\K\d+/0/) {
				substr($head, 0, 100, pack("a100", $name));
				substr($head, 148, 8, " " x 8); # the checksum is the sum with spaces in its place
				substr($head, 148, 8, sprintf("%06o\0 ", unpack("%32C*", $head)));
			}
			print $head, $data;
		}'
}

# archive TREE: tar's account of it, without what tar adds about its own run.
archive() {
	tar -C "$1" --sort=name --numeric-owner --xattrs --xattrs-include='*' --acls --sparse --hole-detection=$holes \
		--pax-option='exthdr.name=%d/%f,delete=atime,delete=ctime' -cf - . 2>"$DIR/tar.err" | sorted_records
	grep -v 'socket ignored' "$DIR/tar.err" >&2 && fail "tar of $1 said something"
	return 0
}

# contents ARCHIVE lists what is in it.
contents() { tar -tvf "$1" --full-time --numeric-owner 2>/dev/null | cut -c 1-200; }

# same_archive A B: tar gives the same bytes.
same_archive() {
	archive "$1" >"$DIR/a"
	archive "$2" >"$DIR/b"
	cmp "$DIR/a" "$DIR/b" >&2 || fail "the archives of $1 and $2 differ: $(diff <(contents "$DIR/a") <(contents "$DIR/b"))"
}

# same A B: rsync finds nothing to do, either way.
same() {
	local said
	for way in "$1/ $2/" "$2/ $1/"; do
		set -- $way
		said=$(rsync -aHAXn --numeric-ids --checksum --itemize-changes --delete "$1" "$2")
		[ -z "$said" ] || fail "rsync $1 $2 would do:"$'\n'"$said"
	done
}

everything "$DIR/plain"
split "$DIR/plain"
before=$(fingerprint "$DIR"/l[123])
mkdir "$upper" && touch -r "$DIR/plain" "$upper" # the top of the view is the upper's
mount_view
# Read from the layers alone.
same "$DIR/plain" "$view"
same_archive "$DIR/plain" "$view"
# Changes in both, so that the upper has a part; moved with what they have.
for t in "$DIR/plain" "$view"; do
	rsync -aHAXS --numeric-ids "$t/attrs/" "$t/copied/"
	rm -r "$t/many/1" "$t/many/2" "$t/names/-rf" "$t/links/b"
	echo changed >"$t/many/3"
	mv "$t/deep" "$t/moved"
	ln "$t/links/a" "$t/links/d"
	chmod 600 "$t/attrs/acl"
	setfattr -n user.two -v 2 "$t/attrs/user"
	touch -d '1980-01-01 UTC' "$t/data/sparse" "$t/data/big"
	printf x | dd of="$t/data/sparse" bs=1 seek=5000000 conv=notrunc status=none
	find "$t" -type d -exec touch -d '2010-01-01 UTC' {} +
	touch -d '2011-01-01 UTC' "$t/many/3" "$t/data/sparse"
done
same "$DIR/plain" "$view"
same_archive "$DIR/plain" "$view"
# Both ways in full, each program writing into the view and reading from it.
rsync -aHAXS --numeric-ids "$DIR/plain/" "$view/by-rsync/"
mkdir "$view/by-tar" && archive "$DIR/plain" | tar -C "$view/by-tar" --numeric-owner --xattrs --xattrs-include='*' --acls -xpf -
rsync -aHAXS --numeric-ids "$view/by-rsync/" "$DIR/back/"
mkdir "$DIR/untar" && archive "$view/by-rsync" | tar -C "$DIR/untar" --numeric-owner --xattrs --xattrs-include='*' --acls -xpf -
same "$DIR/plain" "$view/by-rsync"
same "$DIR/plain" "$DIR/back"
for t in "$view/by-tar" "$DIR/untar"; do
	same_archive "$DIR/plain" "$t"
done
unmount_view
mount_view
same "$DIR/plain" "$view/by-rsync"
same_archive "$DIR/plain" "$view/by-tar"
[ "$(du -k "$view/by-rsync/data/sparse" | cut -f1)" -lt 1000 ] || fail "the sparse file takes $(du -k "$view/by-rsync/data/sparse")"
count=$(find "$view/by-rsync" | wc -l)
unmount_view
layers_kept "$before"
say "$count names: tar --xattrs --acls --sparse equal byte for byte, rsync -aHAX with --checksum finds nothing to do, from the layers, with changes, into the view, out of it, after a remount"
