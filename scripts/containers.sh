#!/bin/bash
# containers.sh [NAME…]: real software in containers: postgres (SECONDS_POSTGRES=600 under
# load, with pause, exec, logs -f, stop and start in between, and nothing of what was
# acknowledged lost), make (make -j2 of a C project), python (a part of Python's own test
# suite) and daemons (cron, nginx, redis and sshd under --init). Each prints a line: "ok NAME
# what was checked". Without names all run. After `make build`; as root or as any user.
#
#   VARVE=FILE  the binary (bin/varve)
#   ROOTFS=FILE a tar of Debian with what is needed; without it mmdebstrap makes one, once
#
# The store and its containers are removed at the end.
set -eEuo pipefail
here=$(cd "$(dirname "$0")" && pwd)
varve=$(realpath "${VARVE:-$here/../bin/varve}")
[ -x "$varve" ] || { echo "containers: there is no $varve; run make build" >&2; exit 2; }
export LC_ALL=C
packages=postgresql,redis-server,gcc,libc6-dev,make,python3,libpython3.11-testsuite,cron,procps,openssh-server,nginx-light
rootfs=${ROOTFS:-$HOME/.cache/varve-test/software.tar}
if [ ! -f "$rootfs" ]; then
	command -v mmdebstrap >/dev/null || { echo "containers: there is no mmdebstrap; run apt-get install mmdebstrap" >&2; exit 2; }
	mkdir -p "$(dirname "$rootfs")"
	mmdebstrap --variant=minbase --include=$packages bookworm "$rootfs.fresh.tar" >&2
	mv "$rootfs.fresh.tar" "$rootfs"
fi

dir=$(mktemp -d "${TMPDIR:-/var/tmp}/varve-containers-XXXXXX")
export VARVE_ROOT=$dir/store
jobs_of_ours=
finish() {
	status=$?
	trap - EXIT ERR
	set +e
	for pid in $jobs_of_ours; do kill "$pid" 2>/dev/null; done
	for id in $("$varve" ps -aq); do "$varve" rm -f "$id" >/dev/null; done
	"$varve" rmi -f software:1 >/dev/null
	[ $status = 0 ] || cat "$dir"/*.err >&2 2>/dev/null
	rm -rf "$dir"
	exit $status
}
trap finish EXIT
trap 'exit 1' HUP INT TERM
trap 'echo "containers: line $LINENO failed: $BASH_COMMAND" >&2' ERR
fail() { echo "FAILED $*" >&2; exit 1; }

# eventually COMMAND…: within a minute it succeeds.
eventually() {
	for _ in {1..600}; do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
	fail "after a minute still not: $*"
}

# rows is how many numbers the table has, and whether they are 1 to that.
rows() { "$varve" exec -u postgres pg psql -qAt -d load -c "select count(*), max(n), sum(n) from t"; }
answers() { "$varve" exec -u postgres pg psql -qAt -d load -c 'select 1'; }

# writer inserts numbers one by one and notes each that was acknowledged; when the server is
# away it goes on with the last that was not.
writer() {
	while [ ! -e "$dir/enough" ]; do
		"$varve" exec -i -u postgres pg psql -qAt -d load -v ON_ERROR_STOP=1 -c "
			do \$\$ declare i int; begin for i in 1..200 loop
				insert into t select coalesce(max(n), 0) + 1 from t; commit;
				raise notice '%', (select max(n) from t);
			end loop; end \$\$" 2>&1 | sed -n 's/^NOTICE: *//p' >>"$dir/acknowledged" || true
	done
}

postgres() {
	local seconds=${SECONDS_POSTGRES:-600} end round=0 acked last
	# Whoever asks is let in: with a single id the peer of a socket is always root.
	"$varve" run -d --name pg --init --network none software:1 sh -c '
		mkdir -p /run/postgresql && chown postgres /run/postgresql
		sed -i "s/peer$/trust/" /etc/postgresql/15/main/pg_hba.conf
		exec setpriv --reuid postgres --regid postgres --init-groups /usr/lib/postgresql/15/bin/postgres -D /etc/postgresql/15/main -c log_checkpoints=on' >/dev/null
	eventually "$varve" exec -u postgres pg psql -qAt -c 'select 1'
	"$varve" exec -u postgres pg createdb load
	"$varve" exec -u postgres pg psql -q -d load -c 'create table t (n int primary key); create extension amcheck'
	: >"$dir/acknowledged"
	writer 2>"$dir/writer.err" &
	local writing=$!
	jobs_of_ours+=" $writing"
	end=$((SECONDS + seconds))
	while [ $SECONDS -lt $end ]; do
		round=$((round + 1))
		"$varve" logs -f pg >"$dir/followed" 2>&1 &
		local following=$!
		sleep 2
		"$varve" pause pg >/dev/null
		sleep 1
		"$varve" unpause pg >/dev/null
		eventually answers
		"$varve" exec pg sh -c 'head -c 5000000 /dev/urandom > /tmp/noise && sha256sum /tmp/noise && rm /tmp/noise' >/dev/null
		sleep 2
		"$varve" stop -t 60 pg >/dev/null # SIGTERM: PostgreSQL waits for its clients, which exec are
		wait $following || fail "postgres: logs -f failed"
		diff <("$varve" logs pg 2>&1) "$dir/followed" >&2 || fail "postgres: logs -f and logs differ"
		"$varve" start pg >/dev/null
		eventually answers
		last=$(tail -n 1 "$dir/acknowledged")
		acked=$("$varve" exec -u postgres pg psql -qAt -d load -c "select count(*) from t where n <= ${last:-0}")
		[ "$acked" = "${last:-0}" ] || fail "postgres: of ${last:-0} acknowledged rows $acked are there"
	done
	: >"$dir/enough"
	wait $writing
	local count max sum
	IFS='|' read -r count max sum < <(rows)
	[ "$count" = "$max" ] && [ "$sum" = $((max * (max + 1) / 2)) ] && [ "$max" -ge "$(tail -n 1 "$dir/acknowledged")" ] || fail "postgres: $count rows, $max, $sum"
	"$varve" exec -u postgres pg /usr/lib/postgresql/15/bin/pg_amcheck -d load >&2 || fail "postgres: pg_amcheck"
	[ "$max" -gt $((round * 10)) ] || fail "postgres: only $max rows"
	"$varve" rm -f pg >/dev/null
	echo "ok postgres $seconds s, $round times paused, stopped and started, $max rows, none lost"
}

make_() {
	local sums
	"$varve" run --name build --network none software:1 sh -c '
		set -e; mkdir -p /w/src && cd /w
		for n in $(seq 300); do echo "int f$n(int x) { return x * $n; }" > src/f$n.c; done
		{ for n in $(seq 300); do echo "int f$n(int);"; done; echo "#include <stdio.h>"; echo "int main(void) { int s = 0;"
		  for n in $(seq 300); do echo "s += f$n(1);"; done; echo "printf(\"%d\", s); return s != 45150; }"; } > src/main.c
		printf "prog: \$(patsubst %%.c,%%.o,\$(wildcard src/*.c))\n\tgcc -o \$@ \$^\n" > Makefile
		make -s -j2 && ./prog >/dev/null && make -q'
	sums=$("$varve" diff build | grep -c '^A /w/src/.*\.o$')
	[ "$sums" = 301 ] || fail "make: $sums objects"
	"$varve" rm build >/dev/null
	echo "ok make -j2: 301 objects, the program runs, nothing left to make"
}

python() {
	# All run on the host's kernel by Debian's own python; test_os needs a terminal's size. Where
	# there are only the ids of a range, those are left out that give a file to the user 2147483648.
	local said leave=
	[ "$(id -u)" = 0 ] || ! grep -q "^$(id -un):" /etc/subuid || leave='-i test_chown -i test_fchown -i test_lchown'
	said=$("$varve" run --rm --init --network none software:1 python3 -m test -j2 --timeout 600 $leave \
		test_os test_posix test_shutil test_subprocess test_tempfile test_pathlib test_glob test_fileio test_io test_mmap test_signal \
		test_socket test_select test_threading test_zipfile test_tarfile test_pty test_fcntl 2>"$dir/python.err" | tee "$dir/python.out" | tail -n 12) ||
		{ tail -n 60 "$dir/python.out" >&2; fail "python"; }
	echo "ok python $(grep -o 'Total tests: .*' <<<"$said" || grep -o 'All [0-9]* tests OK' <<<"$said" || tail -n 1 <<<"$said")"
}

daemons() {
	"$varve" run -d --init --network none --name daemons software:1 sh -c '
		mkdir -p /run/sshd && cron && nginx && redis-server --daemonize yes --dir /tmp >/dev/null && /usr/sbin/sshd
		for i in 1 2 3 4 5; do (sleep 0.1 & ) ; done
		exec sleep 100000' >/dev/null
	eventually "$varve" exec daemons sh -c 'redis-cli ping | grep PONG && pgrep cron && pgrep nginx && pgrep sshd'
	eventually "$varve" exec daemons sh -c '! ps -eo stat | grep Z' # orphans are reaped
	"$varve" exec daemons redis-cli set kept yes >/dev/null
	[ "$("$varve" exec daemons redis-cli get kept)" = yes ] || fail "daemons: redis"
	local began=$SECONDS
	"$varve" stop -t 20 daemons >/dev/null
	[ $((SECONDS - began)) -lt 15 ] || fail "daemons: stop took $((SECONDS - began)) s"
	[ "$("$varve" inspect -f '{{.State.ExitCode}}' daemons)" = 143 ] || fail "daemons: exit code $("$varve" inspect -f '{{.State.ExitCode}}' daemons)"
	"$varve" rm daemons >/dev/null
	echo "ok daemons cron, nginx, redis and sshd under --init, orphans reaped, stopped by SIGTERM"
}

"$varve" import - software:1 <"$rootfs" >/dev/null
for name in ${*:-make python daemons postgres}; do
	case $name in
	make) make_ ;;
	postgres | python | daemons) $name ;;
	*) fail "$name: there are make, python, daemons and postgres" ;;
	esac
done
