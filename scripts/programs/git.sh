# git: a repository with 300 commits (COMMITS), its files, index and objects in three layers.
. "$(dirname "$0")/lib.sh"
need git git
need rsync rsync
commits=${COMMITS:-300}
export GIT_CONFIG_GLOBAL=$DIR/gitconfig GIT_CONFIG_NOSYSTEM=1
export GIT_AUTHOR_DATE='1700000000 +0000' GIT_COMMITTER_DATE='1700000000 +0000'
git config --global user.name tester
git config --global user.email tester@localhost
git config --global init.defaultBranch main
git config --global gc.auto 0
git config --global protocol.file.allow always

# commits FIRST LAST prints a stream for fast-import: four files change a commit.
commits() {
	local n f
	for ((n = $1; n <= $2; n++)); do
		printf 'commit refs/heads/main\ncommitter t <t@localhost> %d +0000\ndata <<END\ncommit %d\nEND\n' $((1600000000 + n * 60)) "$n"
		[ "$n" != "$1" ] || [ "$n" = 1 ] || echo 'from refs/heads/main^0'
		for f in $((n % 97)) $((n % 31)) $((200 + n / 2)) $((n * 7 % 211)); do
			printf 'M 100644 inline dir%d/sub%d/file%d.txt\ndata <<END\n' $((f % 10)) $((f % 3)) "$f"
			printf "line %d of $n\n" {1..40}
			echo END
		done
		printf 'reset refs/tags/v%d\nfrom refs/heads/main\n\n' "$n"
	done
}

# history makes the repository: two thirds packed, the rest loose.
history() {
	git init -q "$1"
	commits 1 $((commits * 2 / 3)) | git -C "$1" fast-import --quiet
	git -C "$1" repack -q -a -d
	commits $((commits * 2 / 3 + 1)) "$commits" | git -C "$1" -c fastimport.unpackLimit=100000 fast-import --quiet
	git -C "$1" reset -q --hard
}

clean() { [ -z "$(git -C "$1" status --porcelain)" ] || fail "$1 is not clean: $(git -C "$1" status --porcelain | head)"; }

# work does what people do to a repository, the same in the view and in a plain directory.
work() {
	cd "$1"
	clean repo
	git clone -q --local repo cloned
	git clone -q --no-local repo copied
	git -C repo checkout -q -b topic "v$((commits / 2))"
	git -C repo mv dir3 moved
	git -C repo rm -q -r dir4/sub1
	for f in repo/dir5/*/*.txt; do echo more >>"$f"; done
	echo new >repo/dir5/new
	git -C repo add -A
	git -C repo commit -q -m topic
	for at in v1 "v$((commits / 4))" "v$commits" topic "v$((commits - 1))" main; do git -C repo checkout -q "$at"; clean repo; done
	git -C repo merge -q -m merge -s ours topic
	git -C repo worktree add -q ../tree "v$((commits / 7))"
	git -C repo repack -q -a -d -f
	git -C repo gc -q --aggressive --prune=now
	git -C cloned pull -q
	for r in repo cloned copied tree; do git -C $r fsck --full --strict; clean $r; done
	cd "$DIR"
}

# facts prints what must be the same: names of commits, counts of objects, files.
facts() {
	for r in repo cloned copied tree; do
		git -C "$1/$r" for-each-ref
		git -C "$1/$r" rev-list --all --objects | sha256sum
		git -C "$1/$r" rev-parse HEAD
		(cd "$1/$r" && find . -name .git -prune -o -type f -exec sha256sum {} + | sort)
	done
}

mkdir "$DIR/plain"
history "$DIR/plain/repo"
split "$DIR/plain"
before=$(fingerprint "$DIR"/l[123])
mount_view
same_tree "$DIR/plain" "$view"
work "$DIR/plain" && work "$view"
diff <(facts "$DIR/plain") <(facts "$view") >&2 || fail "the repositories differ"
unmount_view
mount_view
diff <(facts "$DIR/plain") <(facts "$view") >&2 || fail "the repositories differ after a remount"
for r in repo cloned copied tree; do git -C "$view/$r" fsck --full; clean "$view/$r"; done
count=$(git -C "$view/repo" rev-list --all --count)
unmount_view
layers_kept "$before"
say "status, clone, merge, checkout, worktree, repack, gc, fsck of $count commits as in a plain directory, and after a remount"
