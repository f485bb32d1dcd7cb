package main

import (
	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// isolationFlags are docker's flags for the walls around a container, of the verbs
// that make one.
func isolationFlags(cmd *cobra.Command, want *engine.Isolation) {
	f := cmd.Flags()
	f.VarP((*byteSize)(&want.Limits.Memory), "memory", "m", "give it this much memory at most, as in 512m")
	f.Var((*swapSize)(&want.Limits.MemorySwap), "memory-swap", "give it this much memory and swap together at most, -1 for any swap (default: twice the memory)")
	f.Var((*byteSize)(&want.Limits.MemoryReservation), "memory-reservation", "let it keep this much memory when others are short of it")
	f.Var(swappiness{&want.Limits.MemorySwappiness}, "memory-swappiness", "swap its memory gladly (100) or not (0); on control groups of version 1 (default: as for others)")
	f.BoolVar(&want.Limits.OOMKillDisable, "oom-kill-disable", false, "have it wait for memory that it may not have, and not be killed; on control groups of version 1")
	f.Var((*cpus)(&want.Limits.NanoCPUs), "cpus", "give it the time of this many processors at most, as in 1.5")
	f.Int64Var(&want.Limits.CPUPeriod, "cpu-period", 0, "share out processors anew after this many microseconds (default 100000)")
	f.Int64Var(&want.Limits.CPUQuota, "cpu-quota", 0, "give it this many microseconds of processors in each period (default: any number)")
	f.Int64VarP(&want.Limits.CPUShares, "cpu-shares", "c", 0, "weigh it against others when all want the processors (default 1024)")
	f.StringVar(&want.Limits.CPUSet, "cpuset-cpus", "", "run it on these processors only, as in 0-2,5")
	f.StringVar(&want.Limits.CPUSetMems, "cpuset-mems", "", "have it use these memory nodes only, as in 0-1")
	f.Var((*count)(&want.Limits.Pids), "pids-limit", "let it have this many processes and threads at most (default: any number)")
	f.StringArrayVar(&want.CapAdd, "cap-add", nil, "give it this capability, or ALL")
	f.StringArrayVar(&want.CapDrop, "cap-drop", nil, "take this capability from it, or ALL")
	f.BoolVar(&want.Privileged, "privileged", false, "give it all capabilities and system calls, and the kernel's files to write")
	f.StringArrayVar(&want.SecurityOpt, "security-opt", nil, "seccomp=FILE, seccomp=unconfined, systempaths=unconfined or no-new-privileges; label=… and apparmor=… do nothing")
	f.StringVarP(&want.User, "user", "u", "", "run as this user, NAME or ID, with :GROUP or not (default: the image's)")
	f.StringArrayVar(&want.Groups, "group-add", nil, "be in this group, too")
	f.Bool("help", false, "show this") // -h is docker's for another
	f.StringVarP(&want.Hostname, "hostname", "h", "", "call the machine inside so (default: by the container's id)")
	f.StringVar(&want.Domainname, "domainname", "", "the NIS domain of the machine inside")
	f.Var(checkedList{&want.Sysctls, engine.CheckSysctl}, "sysctl", "set NAME=VALUE for its own namespaces, as in net.ipv4.ip_forward=1")
	f.StringVar(&want.Network, "network", "", "host, this machine's network, none, or container:NAME (default host)")
	f.BoolVar(&want.ReadOnly, "read-only", false, "let nothing be written but to volumes")
	f.StringArrayVar(&want.Tmpfs, "tmpfs", nil, "mount memory on a directory, /DIR[:size=64m,mode=700,exec,…]")
	f.Var(checkedList{&want.MountSpecs, engine.CheckMount}, "mount", "type=bind,source=/DIR,target=/DIR[,readonly] or type=tmpfs,target=/DIR[,tmpfs-size=64m]")
	f.Var((*byteSize)(&want.ShmSize), "shm-size", "let /dev/shm hold this much (default 64m)")
	f.IntVar(&want.OOMScoreAdj, "oom-score-adj", 0, "have the kernel kill it earlier (1000) or later (-1000) for want of memory")
	f.Var(checkedList{&want.Ulimits, engine.CheckUlimit}, "ulimit", "limit each of its processes, NAME=SOFT[:HARD], as in nofile=1024")
}
