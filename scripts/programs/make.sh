# make: a project of 300 files (FILES) built with make -j2, and again after changes to
# its headers, which lie in the layers.
. "$(dirname "$0")/lib.sh"
need make make
need gcc gcc
need rsync rsync

files=${FILES:-300}

# project makes the sources; source n includes the headers n%20 and n%7, and
# header 0 includes header 19.
project() {
	local n
	mkdir -p "$1/src" "$1/include"
	for n in {0..19}; do
		{
			printf '#ifndef H%d\n#define H%d\n' "$n" "$n"
			[ "$n" != 0 ] || echo '#include "h19.h"'
			printf 'static inline int h%d(int x) { return x * %d; }\n#endif\n' "$n" $((n + 3))
		} >"$1/include/h$n.h"
	done
	for n in $(seq $files); do
		{
			printf '#include "h%d.h"\n#include "h%d.h"\n' $((n % 20)) $((n % 7))
			printf 'int f%d(int x) { return h%d(x) + h%d(x); }\n' "$n" $((n % 20)) $((n % 7))
		} >"$1/src/f$n.c"
	done
	{
		for n in $(seq $files); do echo "int f$n(int);"; done
		echo 'int printf(const char *, ...);'
		echo 'int main(void) { int s = 0;'
		for n in $(seq $files); do echo "s += f$n($n);"; done
		echo 'printf("%d\n", s); return 0; }'
	} >"$1/src/main.c"
	cat >"$1/Makefile" <<-'END'
		OBJECTS := $(patsubst src/%.c,obj/%.o,$(wildcard src/*.c))
		prog: $(OBJECTS)
		 	@echo link
		 	gcc -o $@ $(sort $^)
		obj/%.o: src/%.c
		 	@mkdir -p obj
		 	gcc -O1 -MMD -Iinclude -c -o $@ $<
		-include $(OBJECTS:.o=.d)
	END
	sed -i 's/^ \t/\t/' "$1/Makefile"
}

# built TREE TARGET…: builds, and prints what was made, sorted.
built() {
	local tree=$1
	shift
	make -C "$tree" -j2 "$@" | grep -o -- '-o [^ ]*\|^link$' | sort
}

same_build() {
	built "$DIR/plain" "$@" >"$DIR/made-plain"
	built "$view" "$@" >"$DIR/made-view"
	diff "$DIR/made-plain" "$DIR/made-view" >&2 || fail "make $* builds other files in the view"
	for f in "$DIR"/plain/obj/*.o; do cmp "$f" "$view/obj/${f##*/}" >&2 || fail "an object differs"; done
	cmp "$DIR/plain/prog" "$view/prog" && [ "$("$view/prog")" = "$("$DIR/plain/prog")" ] || fail "the programs differ"
	wc -l <"$DIR/made-view"
}

# touched FILE: newer in both trees than what was made of it.
touched() {
	sleep 0.02
	touch "$DIR/plain/$1" "$view/$1"
}

mkdir "$DIR/plain"
project "$DIR/plain"
touch -d '2024-02-03 04:05:06.789' "$DIR"/plain/*/*
split "$DIR/plain"
before=$(fingerprint "$DIR"/l[123])
mount_view
whole=$(same_build)
[ "$whole" = $((files + 3)) ] || fail "$((files + 1)) objects, the program and its line are made, not $whole"
[ "$(same_build)" = 0 ] || fail "nothing changed, and make built $(cat "$DIR/made-view")"
touched include/h5.h
one=$(same_build)
touched include/h19.h
two=$(same_build)
echo '/* changed */' | tee -a "$DIR/plain/src/f42.c" >>"$view/src/f42.c"
[ "$(same_build)" = 3 ] || fail "one source changed, and make built $(cat "$DIR/made-view")"
unmount_view
mount_view
[ "$(same_build)" = 0 ] || fail "after a remount make built $(cat "$DIR/made-view")"
touched include/h19.h
[ "$(same_build)" = "$two" ] || fail "after a remount a header has other users"
unmount_view
layers_kept "$before"
say "make -j2 of $((files + 1)) objects equal to those of a plain directory; $((one - 2)) and $((two - 2)) made anew for two headers of a layer, as there; nothing after a remount"
