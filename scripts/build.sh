#!/bin/bash
# build.sh OUT [GO-BUILD-FLAG...]: builds varve to OUT, with the programs of containers in
# it: these are built first, and take the place of the empty files internal/stage/program
# and internal/stage/supervisor by an overlay, so nothing in the tree changes. With -race varve itself has the race detector in
# it, which takes a C compiler.
set -euo pipefail
out=$(realpath -m "$1"); shift
cd "$(dirname "$0")/.."
export CGO_ENABLED=0
go=${GO:-go}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
# program NAME: builds cmd/NAME to $dir/NAME, with what is there already in it.
program() {
	$go build -buildvcs=false -trimpath -overlay "$dir/overlay" -ldflags '-s -w' -o "$dir/$1" "./cmd/$1"
}
# embed PROGRAM... : has the next builds have the programs in them, each with its checksum.
embed() {
	local list="" file
	for pair in "$@"; do
		file="$dir/${pair#*=}.sum"
		{ sha256sum "$dir/${pair#*=}" | cut -c 1-64; cat "$dir/${pair#*=}"; } > "$file"
		list="$list${list:+,} \"$PWD/internal/stage/${pair%%=*}\": \"$file\""
	done
	printf '{"Replace": {%s}}' "$list" > "$dir/overlay"
}
embed
program varve-stage
embed program=varve-stage
program varve-supervisor
embed program=varve-stage supervisor=varve-supervisor
$go build -buildvcs=false -overlay "$dir/overlay" -o "$out" "$@" ./cmd/varve
