# lua: the source of Lua from Debian's archive, built with make -j2.
. "$(dirname "$0")/lib.sh"
need make make
need gcc gcc
need dpkg-source dpkg-dev
need rsync rsync

# source_of_lua DIRECTORY fetches and unpacks it, leaving the machine's lists of apt alone.
source_of_lua() {
	local lists=$DIR/apt
	mkdir -p "$lists/lists/partial"
	echo 'deb-src http://deb.debian.org/debian bookworm main' >"$lists/sources"
	apt_here=(apt-get -qq -o Dir::Etc::sourcelist="$lists/sources" -o Dir::Etc::sourceparts=/dev/null
		-o Dir::State::lists="$lists/lists" -o APT::Sandbox::User=root -o pkgCacheFile="" -o Dir::Cache::pkgcache="" -o Dir::Cache::srcpkgcache="")
	"${apt_here[@]}" update && (cd "$lists" && "${apt_here[@]}" source --download-only lua5.4) ||
		skip "the source of lua5.4 is not to be had: check the network"
	tar -C "$1" --strip-components=1 -xf "$lists"/lua5.4_*.orig.tar.*
}

objects() { (cd "$1/src" && sha256sum ./*.o ./*.a lua luac); }
# made TREE: builds, and prints what was made.
made() { make -C "$1" -j2 posix MYCFLAGS=-O1 | grep -o -- '-o [^ ]*\|-c [^ ]*' | sort; }
same_build() {
	diff <(made "$DIR/plain") <(made "$view") >&2 || fail "make builds other files in the view"
	diff <(objects "$DIR/plain") <(objects "$view") >&2 || fail "the objects differ"
}

mkdir "$DIR/plain"
source_of_lua "$DIR/plain"
split "$DIR/plain"
before=$(fingerprint "$DIR"/l[123])
mount_view
same_build
count=$(ls "$view"/src/*.o | wc -l)
[ "$("$view/src/lua" -e 'print(6 * 7)')" = 42 ] || fail "the program built does not run"
for header in lopcodes.h lua.h; do
	sleep 0.02
	touch "$view/src/$header" "$DIR/plain/src/$header" "$DIR/stamp"
	same_build
	found="${found:-} $(find "$view/src" -name '*.o' -newer "$DIR/stamp" | wc -l)"
	[ "$(cd "$view/src" && find . -newer "$DIR/stamp" -name '*.o' | sort)" = "$(cd "$DIR/plain/src" && find . -newer "$DIR/stamp" -name '*.o' | sort)" ] ||
		fail "make built others after $header changed"
done
[ -z "$(made "$view")" ] || fail "nothing changed, and make built"
unmount_view
layers_kept "$before"
say "make -j2 of $count objects equal to those of a plain directory; made anew for two headers of a layer:${found}, as there"
