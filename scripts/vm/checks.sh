#!/bin/bash
# checks.sh: what vm.sh has done inside its virtual machine, in one step for each boot; and
# checks.sh WHAT WHO: one of the parts, as the user who calls it. Each check is a line, "ok
# WHO: WHAT: FOUND" or "FAIL WHO: WHAT: …". For that machine only: it changes users, kernel
# settings and devices.
set -uo pipefail
me=/usr/local/lib/varve-vm/checks.sh
kept=/var/lib/varve-vm
export LC_ALL=C.UTF-8 PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
who=root

# varve: a verb that takes minutes has failed, and what runs then is shown.
varve() {
	local code=0
	timeout --foreground -k 5 120 /usr/local/bin/varve "$@" || code=$?
	if [ $code = 124 ]; then
		echo "FAIL $who: varve $* did not end"
		ps -eo pid,ppid,stat,wchan:24,cgroup:60,args | grep -v ' \[' | cut -c1-240
	fi >&2
	return $code
}

flat() { tr '\n' ' ' | sed 's/  */ /g; s/ $//'; }

# is WHAT WANTED FOUND
is() {
	if [ "$2" = "$3" ]; then echo "ok $who: $1: ${3:-nothing}"; else echo "FAIL $who: $1: “$3”, not “$2”"; fi
}

# like WHAT PATTERN FOUND: the same with a pattern of bash.
like() {
	# shellcheck disable=SC2053 # it is a pattern
	if [[ $3 == $2 ]]; then echo "ok $who: $1: $3"; else echo "FAIL $who: $1: “$3” is not like “$2”"; fi
}

# below WHAT MOST FOUND
below() {
	if [ -n "$3" ] && [ "$3" -le "$2" ]; then echo "ok $who: $1: $3 of at most $2"; else echo "FAIL $who: $1: “$3”, and at most $2 was wanted"; fi
}

# eventually COMMAND…: within half a minute it succeeds.
eventually() {
	for _ in {1..300}; do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
	echo "FAIL $who: after half a minute still not: $*"
	return 1
}

# inside FLAGS… -- COMMAND…: what it says in a container, and on one line what varve says.
inside() {
	local flags=()
	while [ "$1" != -- ]; do flags+=("$1"); shift; done
	shift
	varve run --rm "${flags[@]}" small:1 "$@" 2>&1 | flat
}

state() { varve inspect -f "{{.State.$2}}" "$1" 2>&1; }
status() { varve ps -a --filter "name=^$1\$" --format '{{.Status}}'; }
doctor() { varve doctor | grep "^$1 " | sed 's/   */ | /g; s/ | $//'; }
groups_left() { find /sys/fs/cgroup -type d -name 'varve-[0-9a-f]*' ! -name varve-callers | flat; }

# image makes small:1 of this machine's busybox.
image() {
	local root
	root=$(mktemp -d)
	mkdir -p "$root"/{bin,etc,proc,sys,dev,tmp,root}
	cp /bin/busybox "$root/bin/"
	for name in $(/bin/busybox --list); do [ "$name" = busybox ] || ln -s busybox "$root/bin/$name"; done
	echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
	tar -C "$root" --owner=0 --group=0 -c . | varve import - small:1 >/dev/null
	rm -rf "$root"
	is 'the image is there' small:1 "$(varve images --format '{{.Repository}}:{{.Tag}}' | grep small)"
}

group=/sys/fs/cgroup

# busy works for three seconds, and tells how much of a processor its group had, in percent.
busy='now() { cut -d" " -f1 /proc/uptime | tr -d .; }
used() { sed -n "s/usage_usec //p" /sys/fs/cgroup/cpu.stat; }
began=$(now) had=$(used)
while [ $(now) -lt $((began + 300)) ]; do :; done
echo $((($(used) - had) / (($(now) - began) * 100)))'

# limits: what a container with each flag finds in its own group, and that it holds.
limits() {
	like 'doctor, control groups' 'control groups | ok | all limits hold*' "$(doctor 'control groups')"
	is 'no limits' '0::/' "$(inside -- cat /proc/self/cgroup)"
	is '-m 64m' '67108864 67108864' "$(inside -m 64m -- cat $group/memory.max $group/memory.swap.max)"
	is '-m 64m --memory-swap 96m' '67108864 33554432' "$(inside -m 64m --memory-swap 96m -- cat $group/memory.max $group/memory.swap.max)"
	is '-m 64m --memory-swap -1' '67108864 max' "$(inside -m 64m --memory-swap -1 -- cat $group/memory.max $group/memory.swap.max)"
	is '--memory-reservation 32m' '33554432 max' "$(inside --memory-reservation 32m -- cat $group/memory.low $group/memory.max)"
	is '--cpus 0.5' '50000 100000' "$(inside --cpus 0.5 -- cat $group/cpu.max)"
	is '--cpu-period 50000 --cpu-quota 20000' '20000 50000' "$(inside --cpu-period 50000 --cpu-quota 20000 -- cat $group/cpu.max)"
	is '--cpu-shares 512' 20 "$(inside --cpu-shares 512 -- cat $group/cpu.weight)"
	is '--cpuset-cpus 1' '1 1' "$(inside --cpuset-cpus 1 -- sh -c "cat $group/cpuset.cpus.effective; nproc")"
	is '--cpuset-mems 0' '0' "$(inside --cpuset-mems 0 -- cat $group/cpuset.mems)"
	is '--pids-limit 20' 20 "$(inside --pids-limit 20 -- cat $group/pids.max)"
	like '--pids-limit 20, forty processes' "*can't fork*" "$(inside --pids-limit 20 -- sh -c 'for i in $(seq 40); do sleep 5 & done')"
	below '--cpus 0.2, percent of a processor' 28 "$(inside --cpus 0.2 -- sh -c "$busy")"
	like '--oom-kill-disable' '*does not support OomKillDisable*max' "$(inside --oom-kill-disable -- cat $group/memory.max)"
	like '--memory-swappiness 10' '*does not support memory swappiness*max' "$(inside --memory-swappiness 10 -- cat $group/memory.max)"
	is 'all at once' '67108864 50000 100000 30 0-1' "$(inside -m 64m --cpus 0.5 --pids-limit 30 --cpuset-cpus 0-1 -- cat $group/memory.max $group/cpu.max $group/pids.max $group/cpuset.cpus)"
	killer
	frozen
	steady
	killed
	is 'groups that are left' '' "$(groups_left)"
}

# manager is the option of systemd's programs for who looks after this user's groups.
manager() { if [ "$(id -u)" = 0 ]; then echo --system; else echo --user; fi; }

# in_scope COMMAND…: in a scope that is delegated, as doctor and warnings name it.
in_scope() { systemd-run "$(manager)" --quiet --scope -p Delegate=yes "$@"; }

# undelegated: below groups that systemd looks after limits hold, until it does.
undelegated() {
	local taken='*systemd may switch off the controllers'
	like 'doctor, control groups' 'control groups | ok | all limits hold, of cpu and cpuset until systemd looks after its groups | * | systemd-run *--scope -p Delegate=yes varve run …' "$(doctor 'control groups')"
	is 'no limits' '0::/' "$(inside -- cat /proc/self/cgroup)"
	is '-m 64m --pids-limit 20' '67108864 20' "$(inside -m 64m --pids-limit 20 -- cat $group/memory.max $group/pids.max)"
	like '--cpus 0.5' "$taken cpu here*50000 100000" "$(inside --cpus 0.5 -- cat $group/cpu.max)"
	like '--cpuset-cpus 1' "$taken cpuset here*1 1" "$(inside --cpuset-cpus 1 -- sh -c "cat $group/cpuset.cpus.effective; nproc")"
	is '--cpus 0.5 in a scope' '50000 100000' "$(in_scope varve run --rm --cpus 0.5 small:1 cat $group/cpu.max 2>&1 | flat)"
	killer
	frozen
	killed
	is 'groups that are left' '' "$(groups_left)"
}

# killer: a container that wants more memory than it may have.
killer() {
	varve run --name hungry -m 32m --memory-swap 32m small:1 tail /dev/zero >/dev/null 2>&1
	is 'more than -m 32m, exit code' 137 $?
	is 'more than -m 32m, inspect' 'true 137 exited' "$(state hungry OOMKilled) $(state hungry ExitCode) $(state hungry Status)"
	varve rm hungry >/dev/null
	varve run --name modest -m 32m small:1 true
	is 'less than -m 32m, inspect' 'false 0 exited' "$(state modest OOMKilled) $(state modest ExitCode) $(state modest Status)"
	varve rm modest >/dev/null
}

ticks() { varve exec ticking cat /tmp/ticks 2>/dev/null | tail -n 1; }

# frozen: pause, unpause, stats, exec.
frozen() {
	local log before
	varve run -d --name ticking -m 64m --pids-limit 30 small:1 sh -c 'i=0; while :; do i=$((i + 1)); echo $i; sleep 0.05; done' >/dev/null
	eventually varve exec ticking true
	like 'stats' 'ticking 64MiB * 3?' "$(varve stats --no-stream --format '{{.Name}} {{.MemUsage}} {{.PIDs}}' ticking 2>/dev/null | sed 's#\([a-z]*\) .* / \([^ ]*\)#\1 \2#') 30"
	is 'pause' ticking "$(varve pause ticking 2>&1 | flat)"
	before=$(varve logs ticking | tail -n 1)
	sleep 0.5
	log=$(varve logs ticking | tail -n 1)
	is 'paused, lines in half a second' 0 $((log - before))
	is 'paused, inspect' 'paused true' "$(state ticking Status) $(state ticking Paused)"
	like 'paused, ps' '*\(Paused\)' "$(status ticking)"
	is 'unpause' ticking "$(varve unpause ticking 2>&1 | flat)"
	sleep 0.5
	log=$(varve logs ticking | tail -n 1)
	like 'unpaused, it goes on' yes "$([ "$log" -gt "$before" ] && echo yes)"
	is 'exec is in the group' '67108864 0::/' "$(varve exec ticking cat $group/memory.max /proc/self/cgroup 2>&1 | flat)"
	varve rm -f ticking >/dev/null
}

# steady: limits stay when the manager of services looks after its own groups.
steady() {
	local manager
	manager=$(manager)
	varve run -d --name steady -m 64m --cpus 0.5 --cpuset-cpus 0 --pids-limit 30 small:1 sleep 1000 >/dev/null
	eventually varve exec steady true
	systemctl $manager daemon-reload
	systemd-run $manager --quiet --wait --collect -p CPUWeight=50 -p MemoryMax=1G true
	systemd-run $manager --quiet --wait --collect true
	sleep 1
	is 'limits after systemd has been at work' '67108864 50000 100000 0 30' "$(varve exec steady cat $group/memory.max $group/cpu.max $group/cpuset.cpus $group/pids.max 2>&1 | flat)"
	varve rm -f steady >/dev/null
}

# killed: the supervisor of a container is killed.
killed() {
	varve run -d --name killed --pids-limit 30 small:1 sleep 1000 >/dev/null
	local id
	id=$(varve inspect -f '{{.Id}}' killed)
	kill -9 "$(sed 's/.*"supervisor":{"pid":\([0-9]*\).*/\1/' "$(store)/containers/$id/state.json")"
	sleep 0.5
	is 'supervisor killed' 'exited 137' "$(state killed Status) $(state killed ExitCode)"
	varve rm killed >/dev/null
}

store() { if [ "$(id -u)" = 0 ]; then echo /var/lib/varve; else echo "$HOME/.local/share/varve"; fi; }

# bare: without any group of its own.
bare() {
	local said
	like 'doctor, control groups' 'control groups | missing | none can be made here*systemd-run --user*' "$(doctor 'control groups')"
	said=$(varve run --rm -m 64m --pids-limit 20 --cpuset-cpus 1 --cpus 0.5 small:1 sh -c "grep -E '^Max (data|processes)' /proc/self/limits; nproc" 2>/tmp/bare.err | awk '{ print (/^Max/ ? $(NF - 1) : $1) }' | flat)
	is 'what stands in for limits' '67108864 20 1' "$said"
	is 'lines of warning' 1 "$(wc -l </tmp/bare.err)"
	like 'the warning' '*RLIMIT_DATA*' "$(flat </tmp/bare.err)"
	is 'no limits, no warning' 'hello' "$(inside -- echo hello)"
	rm -f /tmp/bare.err
	varve run -d --name ticking small:1 sleep 1000 >/dev/null
	eventually varve exec ticking true
	like 'pause' '*SIGSTOP*' "$(varve pause ticking 2>&1 | flat)"
	is 'paused, inspect' 'paused true' "$(state ticking Status) $(state ticking Paused)"
	varve unpause ticking >/dev/null
	is 'unpaused, inspect' 'running false' "$(state ticking Status) $(state ticking Paused)"
	varve rm -f ticking >/dev/null
}

# as USER WHAT WHO: a part, in a service of the user's own manager that is delegated to him.
as() { of_manager "$1" --quiet --wait --pipe --collect -p Delegate=yes -d "$me" "$2" "$3"; }

# of_manager USER ARGUMENTS…: systemd-run of the user's own manager.
of_manager() {
	local user=$1
	shift
	(cd "/home/$user" && runuser -u "$user" -- env HOME="/home/$user" XDG_RUNTIME_DIR="/run/user/$(id -u "$user")" systemd-run --user "$@")
}

# login USER COMMAND…: as one who has logged in, whose session is not delegated.
login() {
	local user=$1
	shift
	systemd-run --quiet --wait --pipe --collect -p User="$user" -p PAMName=login -p WorkingDirectory="/home/$user" -- "$@"
}

# service USER WHAT WHO [OPTION…]: a part, in a service of the system.
service() {
	systemd-run --quiet --wait --pipe --collect -p User="$1" -p WorkingDirectory="$(getent passwd "$1" | cut -d: -f6)" "${@:4}" "$me" "$2" "$3"
}

users() {
	local name
	for name in ranged single plain; do
		useradd --create-home --user-group --shell /bin/bash $name
		mkdir -p /var/lib/systemd/linger
	done
	sed -i /^single:/d /etc/subuid /etc/subgid
	# Only memory and pids are delegated by Debian; this is the way that docker and podman name.
	mkdir -p /etc/systemd/system/user@.service.d
	printf '[Service]\nDelegate=cpu cpuset io memory pids\n' >/etc/systemd/system/user@.service.d/delegate.conf
	systemctl daemon-reload
	for name in ranged single; do
		loginctl enable-linger $name
		eventually systemctl is-active "user@$(id -u $name).service"
	done
}

first() {
	users
	is 'the controllers of version 2' 'cpuset cpu io memory hugetlb pids rdma misc' "$(flat </sys/fs/cgroup/cgroup.controllers)"
	image
	undelegated
	service root limits 'root, delegated' -p Delegate=yes
	as ranged image 'user with a range'
	as ranged limits 'user with a range'
	of_manager ranged --quiet --wait --pipe --collect -d "$me" undelegated 'user, not delegated'
	as single image 'user with a single id'
	as single limits 'user with a single id'
	service plain image 'user without groups'
	service plain bare 'user without groups'
	login ranged "$me" logged_in 'user who has logged in'
	lasting
	of_manager ranged --quiet --scope -p Delegate=yes -p TimeoutStopSec=5 "$me" lasting 'user with a range'
	echo second >$kept/step
	systemctl reboot
}

# logged_in: what doctor and a warning name is what helps.
logged_in() {
	like 'doctor, control groups' 'control groups | missing | *systemd-run --user --scope -p Delegate=yes varve run …' "$(doctor 'control groups')"
	like '-m 64m' '*RLIMIT_DATA*hello' "$(inside -m 64m -- echo hello)"
	is 'systemd-run --user --scope -p Delegate=yes varve run -m 64m --cpus 0.5' '67108864 50000 100000' \
		"$(in_scope varve run --rm -m 64m --cpus 0.5 small:1 cat $group/memory.max $group/cpu.max 2>&1 | flat)"
}

# lasting: containers that are there when the machine goes down.
lasting() {
	local name
	for name in always once; do
		varve run -d --name $name -m 64m --restart "$([ $name = always ] && echo always || echo no)" small:1 sh -c 'echo kept >>/kept; exec sleep 100000' >/dev/null
		eventually varve exec $name grep kept /kept
	done
	is 'before the machine goes down' 'running running' "$(state always Status) $(state once Status)"
	[ "$(id -u)" != 0 ] || pids
}

# after PATTERN: what there is of them when it is up again.
after() {
	like 'ps -a, always' "Exited \($1\)*" "$(status always)"
	like 'ps -a, once' "Exited \($1\)*" "$(status once)"
	is 'inspect' 'exited false 0' "$(state once Status) $(state once Running) $(state once Pid)"
	is 'ps' '' "$(varve ps -q | flat)"
	strangers
	is 'start --all --filter restart-policy=always' always "$(varve start --all --filter restart-policy=always 2>&1 | xargs varve inspect -f '{{.Name}}' | tr -d /)"
	is 'what runs then' 'running exited' "$(state always Status) $(state once Status)"
	eventually varve exec always grep kept /kept
	is 'its upper, with a line for each start' 'kept kept' "$(varve exec always cat /kept | flat)"
	is 'start once' once "$(varve start once 2>&1)"
	eventually varve exec once grep kept /kept
	is 'its limits' 67108864 "$(varve exec once cat $group/memory.max)"
	varve stop -t 0 once >/dev/null
	like 'stopped' 'Exited \(137\) *' "$(status once)"
	varve rm -f once always >/dev/null
	like 'system check' '*' "$(varve system check 2>&1 | flat)"
	is 'groups that are left' '' "$(groups_left)"
}

# strangers: the numbers of the processes of before are given to others, who are left alone.
strangers() {
	local pid list=
	[ "$(id -u)" = 0 ] || return 0
	for pid in $(cat $kept/pids); do
		echo $((pid - 1)) >/proc/sys/kernel/ns_last_pid
		sleep 100000 &
		[ $! = "$pid" ] && list+=" $pid"
	done
	like 'others have the numbers of' '* *' "$list "
	like 'ps -a, once' 'Exited *' "$(status once)"
	like 'kill once' '*is not running*' "$(varve kill once 2>&1 | flat)"
	varve stop once >/dev/null 2>&1
	is 'they are alive' "$(wc -w <<<"$list")" "$(for pid in $list; do kill -0 "$pid" && echo alive; done | wc -l)"
	kill $list # two words, if all is well
}

# pids notes the numbers of the processes of the container once.
pids() {
	local id
	id=$(varve inspect -f '{{.Id}}' once)
	tr , '\n' <"/var/lib/varve/containers/$id/state.json" | sed -n 's/.*"pid":\([0-9]*\).*/\1/p' >$kept/pids
}

second() {
	after '1[34][37]'
	of_manager ranged --quiet --scope -p Delegate=yes "$me" orderly 'user with a range'
	lasting
	of_manager ranged --quiet --scope -p Delegate=yes -p TimeoutStopSec=5 "$me" lasting 'user with a range'
	echo third >$kept/step
	sync
	echo b >/proc/sysrq-trigger
	sleep 1000
}

orderly() { after '1[34][37]'; }
abrupt() { after 137; }

third() {
	abrupt
	of_manager ranged --quiet --scope -p Delegate=yes "$me" abrupt 'user with a range'
	sysctl -q -w user.max_user_namespaces=0
	is 'no user namespaces, run' hello "$(inside -- echo hello)"
	like 'no user namespaces, run --userns auto' '*user.max_user_namespaces = 0*' "$(inside --userns auto -- echo hello)"
	as ranged no_namespaces 'user with a range'
	as single no_namespaces 'user with a single id'
	sysctl -q -w user.max_user_namespaces=15000
	chmod 0600 /dev/fuse
	as ranged no_fuse 'user, closed /dev/fuse'
	rm /dev/fuse
	no_fuse
	as ranged no_fuse 'user, no /dev/fuse'
	as single no_fuse 'user with a single id, no /dev/fuse'
	echo 'install overlay /bin/false' >/etc/modprobe.d/no-overlay.conf
	modprobe -r overlay
	no_overlay
	as ranged no_overlay 'user with a range, neither'
	as single no_overlay 'user with a single id, neither'
	echo end
	systemctl poweroff
}

no_namespaces() {
	like 'no user namespaces, doctor' 'user namespaces | missing | user.max_user_namespaces = 0 | * | sudo sysctl -w user.max_user_namespaces=15000' "$(doctor 'user namespaces')"
	like 'no user namespaces, run' 'varve: *user.max_user_namespaces = 0: sudo sysctl -w user.max_user_namespaces=15000' "$(inside -- echo hello)"
	varve run --rm small:1 true >/dev/null 2>&1
	is 'no user namespaces, exit code' 125 $?
	is 'no user namespaces, images' small:1 "$(varve images --format '{{.Repository}}:{{.Tag}}' 2>&1 | grep small)"
}

no_fuse() {
	like 'doctor' '/dev/fuse | missing | * | views; * | sudo sh -c *modprobe fuse*' "$(doctor /dev/fuse)"
	is 'run' overlay "$(inside -- sh -c "awk '\$2 == \"/\" { print \$3 }' /proc/mounts")"
	like 'run host' 'varve: */dev/fuse*as root*' "$(varve run --rm host true 2>&1 | flat)"
	[ ! -e /dev/fuse ] || return 0 # fusermount3, which is not here, could open it
	mkdir -p "/tmp/mnt.$$"
	like 'mount' 'varve: */dev/fuse*modprobe fuse*' "$(varve mount -o lowerdir=/etc "/tmp/mnt.$$" 2>&1 | flat)"
	rmdir "/tmp/mnt.$$"
}

no_overlay() {
	like 'doctor' 'kernel overlayfs | missing | not loaded | * | sudo modprobe overlay' "$(doctor 'kernel overlayfs')"
	like 'run' 'varve: warning: *cop*modprobe*hello' "$(inside -- echo hello)"
}

if [ $# -gt 0 ]; then
	what=$1 who=$2
	$what
	exit
fi

exec >/dev/ttyS1 2>&1
mkdir -p $kept
step=$(cat $kept/step 2>/dev/null || echo first)
echo "== $step boot: Linux $(uname -r), $(systemctl --version | head -n 1 | cut -d' ' -f1,2), $(stat -f -c %T /sys/fs/cgroup)"
$step
