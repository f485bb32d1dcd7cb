#!/bin/sh
# Prints the version of this tree: what git describes, when there are tags; else
# the newest version of CHANGELOG.md, with the commit where there is one.
cd "$(dirname "$0")/.." || exit 1
if tag=$(git describe --tags --dirty --match 'v[0-9]*' 2>/dev/null); then
	echo "${tag#v}"
	exit 0
fi
version=$(sed -n 's/^## \([0-9][^ ,]*\).*/\1/p' CHANGELOG.md | head -n 1)
commit=$(git rev-parse --short HEAD 2>/dev/null) && version="$version-dev+$commit"
echo "${version:-0.0.0}"
