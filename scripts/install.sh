#!/bin/sh
# Installs a binary with its other names, the manual and the completions of three
# shells below DESTDIR, or removes them: install.sh BINARY DESTDIR, install.sh
# --remove DESTDIR. BINDIR, SBINDIR and DATADIR say where, as make gives them.
set -eu
cd "$(dirname "$0")/.."
binary=$1 dest=${2:-}
bin=$dest$BINDIR sbin=$dest$SBINDIR share=$dest$DATADIR

if [ "$binary" = --remove ]; then
	rm -f "$bin/varve" "$sbin/mount.fuse.varve" "$share/man/man1/varve.1" "$share/man/man8/mount.fuse.varve.8" \
		"$share/bash-completion/completions/varve" "$share/zsh/site-functions/_varve" \
		"$share/fish/vendor_completions.d/varve.fish"
	# Another program of that name may have come in the place of our link.
	[ "$(readlink "$bin/fuse-overlayfs" || true)" != varve ] || rm -f "$bin/fuse-overlayfs"
	exit 0
fi

mkdir -p "$bin" "$sbin" "$share/man/man1" "$share/man/man8" "$share/bash-completion/completions" \
	"$share/zsh/site-functions" "$share/fish/vendor_completions.d"
if [ -e "$bin/fuse-overlayfs" ] && [ "$(readlink "$bin/fuse-overlayfs" || true)" != varve ]; then
	echo "install: $bin/fuse-overlayfs is another program; remove it, or choose another PREFIX" >&2
	exit 1
fi
install -m 0755 "$binary" "$bin/varve"
ln -sf varve "$bin/fuse-overlayfs"
ln -sf "$BINDIR/varve" "$sbin/mount.fuse.varve"
install -m 0644 docs/man/varve.1 "$share/man/man1/varve.1"
echo '.so man1/varve.1' >"$share/man/man8/mount.fuse.varve.8"
chmod 0644 "$share/man/man8/mount.fuse.varve.8"
"$binary" completion bash >"$share/bash-completion/completions/varve"
"$binary" completion zsh >"$share/zsh/site-functions/_varve"
"$binary" completion fish >"$share/fish/vendor_completions.d/varve.fish"
