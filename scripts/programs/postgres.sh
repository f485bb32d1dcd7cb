# postgres: a server whose data begins in the layers, with fsync; killed in the
# middle of pgbench, then the view's server killed in the middle of another.
. "$(dirname "$0")/lib.sh"
need pg_ctlcluster postgresql
need rsync rsync
bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
seconds=${SECONDS_PGBENCH:-60}
data=$view/data sock=$DIR/sock logs=$DIR/logs

as_pg() { setpriv --reuid postgres --regid postgres --init-groups env HOME="$sock" PGHOST="$sock" PGDATABASE=postgres "$@"; }
sql() { as_pg "$bin/psql" -X -A -t -q -c "$1"; }
start_pg() { as_pg "$bin/pg_ctl" -D "$1" -s -w -t 300 -l "$logs/server" -o "-c listen_addresses= -c unix_socket_directories=$sock -c fsync=on -c shared_buffers=32MB" start; }
stop_pg() { as_pg "$bin/pg_ctl" -D "$1" -s -w -m fast stop; }

# kill_pg ends the postmaster and its children as a power failure would.
kill_pg() {
	local pids
	pids=$(pgrep -u postgres -f "postgres" | while read -r p; do
		if [ "$p" = "$postmaster" ] || [ "$(ps -o ppid= -p "$p" | tr -d ' ')" = "$postmaster" ]; then echo "$p"; fi
	done)
	[ -z "$pids" ] || kill -9 $pids 2>/dev/null || true
	for p in $pids; do while kill -0 "$p" 2>/dev/null; do sleep 0.05; done; done
	rm -f "$sock"/.s.*
}
before_finish() { [ -z "${postmaster:-}" ] || kill_pg; tail -n 20 "$logs/server" >&2; }

# bench NAME SECONDS: four clients; their log names each acknowledged transaction.
bench() { (cd "$logs" && as_pg "$bin/pgbench" -n -c 4 -T "$2" -l --log-prefix="$1") >"$logs/$1.out" 2>&1; }

# consistent: pgbench's sums agree, every acknowledged transaction is there, and
# the tables and indexes are in order.
consistent() {
	local sums rows acked
	sums=$(sql 'SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches),
		(SELECT sum(tbalance) FROM pgbench_tellers), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)')
	[ "$(tr '|' '\n' <<<"$sums" | sort -u | wc -l)" = 1 ] || fail "$1: the sums differ: $sums"
	rows=$(sql 'SELECT count(*) FROM pgbench_history')
	acked=$(cat "$logs"/run*.[0-9]* 2>/dev/null | wc -l)
	[ "$rows" -ge "$acked" ] || fail "$1: $acked transactions acknowledged, $rows there"
	[ ! -x "$bin/pg_amcheck" ] || as_pg "$bin/pg_amcheck" --install-missing --heapallindexed postgres >&2 || fail "$1: pg_amcheck"
	found="$rows rows, $acked acknowledged"
}

mkdir "$DIR/plain" "$sock" "$logs"
chown postgres:postgres "$sock" "$logs"
install -d -o postgres -g postgres -m 0700 "$DIR/plain/data"
as_pg "$bin/initdb" -D "$DIR/plain/data" -A trust -k >/dev/null
start_pg "$DIR/plain/data"
postmaster=$(head -n 1 "$DIR/plain/data/postmaster.pid")
as_pg "$bin/pgbench" -i -q -s 2 postgres >/dev/null 2>&1
stop_pg "$DIR/plain/data"
split "$DIR/plain"
before=$(fingerprint "$DIR"/l[123])

mount_view
same_tree "$DIR/plain" "$view"
start_pg "$data"
postmaster=$(head -n 1 "$data/postmaster.pid")
bench run1 "$seconds" &
running=$!
sleep $((seconds / 2))
kill_pg
wait $running || true
start_pg "$data"
postmaster=$(head -n 1 "$data/postmaster.pid")
consistent "after kill -9 of the database"
first=$found
bench run2 $((seconds / 6 + 2)) || fail "pgbench after recovery: $(tail -n 5 "$logs/run2.out")"
consistent "after recovery"

bench run3 "$seconds" &
running=$!
sleep $((seconds / 3))
kill -9 $server
wait $running || true
kill_pg
kill_view
mount_view
start_pg "$data"
postmaster=$(head -n 1 "$data/postmaster.pid")
consistent "after kill -9 of the view"
stop_pg "$data"
"$bin/pg_checksums" --check -D "$data" >/dev/null || fail "checksums"
unmount_view
layers_kept "$before"
say "pgbench of 4 clients with fsync: after kill -9 of the database $first; after kill -9 of the view $found; sums agree, pg_amcheck and checksums in order"
