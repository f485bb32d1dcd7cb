#!/bin/bash
# build.sh OUT [GO-BUILD-FLAG...]: builds varve to OUT, with the stage program in it: that
# is built first, and takes the place of the empty file internal/stage/program by an
# overlay, so nothing in the tree changes. With -race varve itself has the race detector in
# it, which takes a C compiler.
set -euo pipefail
out=$(realpath -m "$1"); shift
cd "$(dirname "$0")/.."
export CGO_ENABLED=0
go=${GO:-go}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
$go build -buildvcs=false -trimpath -ldflags '-s -w' -o "$dir/stage" ./cmd/varve-stage
{ sha256sum "$dir/stage" | cut -c 1-64; cat "$dir/stage"; } > "$dir/program"
printf '{"Replace": {"%s": "%s"}}' "$PWD/internal/stage/program" "$dir/program" > "$dir/overlay"
case " $* " in *" -race "*) export CGO_ENABLED=1 ;; esac
$go build -buildvcs=false -overlay "$dir/overlay" -o "$out" "$@" ./cmd/varve
