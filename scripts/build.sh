#!/bin/bash
# build.sh OUT [GO-BUILD-FLAG...]: builds varve to OUT, with the programs of containers in
# it: these are built first, and take the place of the empty files internal/stage/program
# and internal/stage/supervisor by an overlay, so nothing in the tree changes. With -race
# varve and its supervisors have the race detector in them, which takes a C compiler.
set -euo pipefail
out=$(realpath -m "$1"); shift
cd "$(dirname "$0")/.."
export CGO_ENABLED=0
go=${GO:-go}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
race=
case " $* " in *" -race "*) race=-race ;; esac

# program NAME [GO-BUILD-FLAG...]: builds cmd/NAME to $dir/NAME.
program() {
	local name=$1; shift
	$go build -buildvcs=false -trimpath -overlay "$dir/overlay" -ldflags '-s -w' -o "$dir/$name" "$@" "./cmd/$name"
}

# embed [FILE=NAME...]: has internal/stage/FILE be the program NAME, with its checksum, in
# what is built from here on.
embed() {
	local list= file name
	for pair in "$@"; do
		file=${pair%%=*} name=${pair#*=}
		{ sha256sum "$dir/$name" | cut -c 1-64; cat "$dir/$name"; } > "$dir/$name.sum"
		list="$list${list:+, }\"$PWD/internal/stage/$file\": \"$dir/$name.sum\""
	done
	printf '{"Replace": {%s}}' "$list" > "$dir/overlay"
}

embed
program varve-stage
embed program=varve-stage
if [ -n "$race" ]; then export CGO_ENABLED=1; fi
program varve-supervisor $race
embed program=varve-stage supervisor=varve-supervisor
$go build -buildvcs=false -overlay "$dir/overlay" -o "$out" "$@" ./cmd/varve
