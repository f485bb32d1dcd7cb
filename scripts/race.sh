#!/bin/sh
# race.sh GO-TEST-ARGUMENT...: runs tests under the race detector, and the varve that they
# build, too. What it reports goes to files, since a supervisor has no stderr that a test
# looks at; they are printed, and then this fails. The tests are static, as varve is: those of
# runner are their own stage, which is executed where no library is.
set -u
reports=$(mktemp -d)
trap 'rm -rf "$reports"' EXIT
chmod 1777 "$reports"
code=0
CGO_ENABLED=1 GORACE="log_path=$reports/race" "${GO:-go}" test -race \
	-tags osusergo,netgo -ldflags "-linkmode external -extldflags -static" "$@" || code=$?
for report in "$reports"/race.*; do
	[ -e "$report" ] || continue
	cat "$report"
	code=1
done
exit $code
