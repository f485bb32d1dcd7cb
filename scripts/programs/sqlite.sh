# sqlite: four journal modes (MODES) of 150 transactions a writer (ROWS), the database beginning in a layer; two writers at
# once, then a writer killed in the middle.
. "$(dirname "$0")/lib.sh"
need sqlite3 sqlite3
need rsync rsync
rows=${ROWS:-150}
modes=${MODES:-delete truncate persist wal}

# writer DATABASE WHO FROM TO: a transaction a row; each is acknowledged on
# stdout when it is committed.
writer() {
	local n
	{
		echo '.timeout 60000'
		echo 'PRAGMA synchronous=FULL;'
		for ((n = $3; n <= $4; n++)); do
			echo "BEGIN IMMEDIATE; INSERT INTO t VALUES('$2', $n, hex(randomblob(300))); UPDATE sums SET n = n + 1; COMMIT;"
			echo "SELECT '$2', $n;"
		done
	} | stdbuf -oL sqlite3 -bail "$1"
}

# whole DATABASE: it is in order, its sum is its count of rows, and each
# acknowledged row is there.
whole() {
	local db=$1 lost
	[ "$(sqlite3 "$db" 'PRAGMA integrity_check')" = ok ] || fail "$db: $(sqlite3 "$db" 'PRAGMA integrity_check' 2>&1)"
	[ "$(sqlite3 "$db" 'SELECT (SELECT count(*) FROM t) = (SELECT n FROM sums)')" = 1 ] || fail "$db: half a transaction"
	lost=$(comm -23 <(cat "$DIR"/acks/"${db##*/}".* | grep '|' | sort) <(sqlite3 "$db" 'SELECT who, n FROM t' | sort))
	[ -z "$lost" ] || fail "$db: acknowledged and lost: $lost"
}

mkdir "$DIR/plain" "$DIR/acks"
for mode in $modes; do
	db=$DIR/plain/$mode.db
	sqlite3 "$db" "PRAGMA journal_mode=$mode; CREATE TABLE t(who, n, x); CREATE TABLE sums(n);
		INSERT INTO sums VALUES(0); CREATE INDEX i ON t(x);" >/dev/null
	writer "$db" base 1 40 >"$DIR/acks/$mode.db.base"
done
split "$DIR/plain"
before=$(fingerprint "$DIR"/l[123])
mount_view
for mode in $modes; do
	db=$view/$mode.db
	[ "$mode" = wal ] || sqlite3 "$db" "PRAGMA journal_mode=$mode" >/dev/null
	whole "$db"
	writer "$db" first 1 "$rows" >"$DIR/acks/$mode.db.1" &
	first=$!
	writer "$db" second 1 "$rows" >"$DIR/acks/$mode.db.2" &
	wait $first && wait $! || fail "$mode: a writer failed"
	whole "$db"
	[ "$(sqlite3 "$db" 'SELECT count(*) FROM t')" = $((40 + 2 * rows)) ] || fail "$mode: rows are missing"
	for round in 1 2 3; do
		acks=$DIR/acks/$mode.db.killed$round
		writer "$db" "killed$round" 1 100000 >"$acks" 2>/dev/null &
		until [ -s "$acks" ] && [ "$(wc -l <"$acks")" -gt $((10 * round)) ]; do sleep 0.01; done
		kill -9 "$(pgrep -f "^sqlite3 -bail $db")"
		wait $! 2>/dev/null || true
		sed -i '$!b;/|[0-9]*$/!d' "$acks"
		whole "$db"
	done
	[ "$(sqlite3 "$db" 'PRAGMA journal_mode')" = "$([ $mode = wal ] && echo wal || echo delete)" ] || fail "$mode: the mode changed"
done
unmount_view
mount_view
for mode in $modes; do whole "$view/$mode.db"; done
acked=$(cat "$DIR"/acks/* | grep -c '|')
unmount_view
layers_kept "$before"
say "${modes// /, }: 2 writers of $rows transactions, 3 writers killed in the middle, integrity_check ok, $acked acknowledged rows there, also after a remount"
