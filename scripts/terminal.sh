#!/bin/bash
# terminal.sh [VARVE]: a person at a real terminal (tmux): types, interrupts, stops and
# goes on, resizes, edits with vi, reads the output of a full screen. The same keys go to
# a shell of this machine and to one in a container, and their screens are compared at each
# step; then the container is left, and come back to. As root or as any user; needs tmux
# and a static busybox.
set -euo pipefail
varve=$(realpath "${1:-$(dirname "$0")/../bin/varve}")
for tool in tmux busybox; do
	command -v $tool >/dev/null || { echo "terminal: there is no $tool; run apt-get install $tool" >&2; exit 2; }
done
export LC_ALL=C.UTF-8
dir=$(mktemp -d)
export VARVE_ROOT=$dir/store
unset TMUX
finish() {
	status=$?
	trap - EXIT
	set +e
	tmux -S "$dir/socket" kill-server 2>/dev/null
	"$varve" rm -f person >/dev/null 2>&1
	"$varve" rmi -f terminal:1 >/dev/null 2>&1
	[ $status = 0 ] || tail -n 40 "$dir"/*.screen >&2
	rm -rf "$dir"
	exit $status
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

mkdir -p "$dir/root/bin" "$dir/root/etc" "$dir/root/tmp" "$dir/home"
cp "$(command -v busybox)" "$dir/root/bin/busybox"
"$dir/root/bin/busybox" --install -s "$dir/root/bin" 2>/dev/null || true
for name in sh stty vi cat sleep seq head yes; do ln -sf busybox "$dir/root/bin/$name"; done
tar -C "$dir/root" -c . | "$varve" import - terminal:1 >/dev/null

t() { tmux -S "$dir/socket" -f /dev/null "$@"; }
shown() { t capture-pane -p -t "$1" | sed 's/ *$//'; }
# until_shows WINDOW TEXT: waits until a line of the screen is this.
until_shows() {
	for _ in {1..300}; do
		shown "$1" | grep -qxF -- "$2" && return
		sleep 0.1
	done
	shown "$1" >"$dir/failed.screen"
	echo "terminal: $1 does not show: $2" >&2
	exit 1
}

environment="HOME=/tmp PATH=$dir/root/bin:/bin TERM=screen"
t new-session -d -x 80 -y 24 -s plain "cd $dir/home && exec env -i HOME=/tmp PATH=$dir/root/bin TERM=screen PS1='> ' $dir/root/bin/sh"
t set-option -g status off
t new-session -d -x 80 -y 24 -s ours "$varve run -it --name person -e TERM=screen -e PS1='> ' -w /tmp terminal:1 sh"
until_shows ours '>'
until_shows plain '>'

# both KEYS… sends the same to both; same WHAT TEXT waits for the text and compares.
both() { for w in plain ours; do t send-keys -t $w "$@"; done; }
steps=0
same() {
	for w in plain ours; do until_shows $w "$2"; done
	for _ in {1..50}; do # what comes behind the text may still be on its way
		shown plain >"$dir/plain.screen"
		shown ours >"$dir/ours.screen"
		cmp -s "$dir/plain.screen" "$dir/ours.screen" && { steps=$((steps + 1)); return; }
		sleep 0.1
	done
	diff "$dir/plain.screen" "$dir/ours.screen" >&2 || { echo "terminal: $1: the screens differ" >&2; exit 1; }
}

both 'echo hello world' Enter
same typing 'hello world'
both 'echo abX' BSpace 'c; echo done' Enter
same 'a typing error' 'abc'
both 'sleep 1000' Enter
sleep 0.5
both C-c
both 'echo interrupted $?' Enter
same Ctrl-C 'interrupted 130'
both 'sleep 1000' Enter
sleep 0.5
both C-z
both 'echo stopped; kill -9 %1; wait; echo ended' Enter
same Ctrl-Z 'ended'
both 'clear; stty size' Enter
same 'the size' '24 80'
for w in plain ours; do t resize-window -t $w -x 100 -y 30; done
sleep 0.5
both 'clear; stty size' Enter
same resize '30 100'
both 'clear; seq 1 500' Enter
same 'a screen that scrolls' '500'
both 'clear; vi file' Enter
sleep 1
both 'i' 'one' Enter 'two' Enter 'three' Escape
same 'vi, inserting' 'three'
both 'ggddp' ':wq' Enter
sleep 0.5
both 'clear; cat file; echo written' Enter
same 'vi, written' 'written'
both 'cat' Enter 'line' Enter
same cat 'line'
both C-d 'echo after the end' Enter
same Ctrl-D 'after the end'

# Left and come back to.
t send-keys -t ours C-p C-q
for _ in {1..100}; do t has-session -t ours 2>/dev/null || break; sleep 0.1; done
! t has-session -t ours 2>/dev/null || { echo "terminal: the detach keys do nothing" >&2; exit 1; }
[ "$("$varve" inspect -f '{{.State.Running}}' person)" = true ]
t new-session -d -x 90 -y 20 -s back "$varve attach person; stty -a | grep -o ' [-]*echo ' ; sleep 1000"
sleep 1
t send-keys -t back 'clear; stty size; echo back' Enter
until_shows back 'back'
until_shows back '20 90'
t send-keys -t back 'exit' Enter
until_shows back ' echo' # the terminal is as it was
[ "$("$varve" inspect -f '{{.State.Running}}' person)" = false ]
echo "ok terminal: $steps screens are the same; left, and come back to"
