// Package cgroup gives a container a control group of its own, where this
// machine and this user allow one: to freeze its processes, to limit what they
// use, and to hear whether the kernel had to kill one for want of memory.
//
// Its law: a group lives below that of who starts the container, or as near to
// it as it can be made, so the limits that hold for the caller hold inside, too;
// and nothing of it stays when the container has ended.
//
// The nouns:
//
//   - a [Host] is the trees of this machine and where this process is in them.
//     There is the tree of version 2, those of version 1 (one for each
//     controller or a few), or all of them at once, which is called hybrid;
//   - a [Group] is the directories that one container has in those trees. It can
//     be written down, and used by another process;
//   - [Limits] are what docker's flags ask for.
//
// What it costs. A directory is made in 50 µs. In version 2 a process is born
// into its group (CLONE_INTO_CGROUP), which costs nothing; moving it later, the
// only way in version 1, waits for an RCU grace period of 5 to 12 ms. So every
// container has a group in version 2, if one can be made, and one in version 1
// only for the limits that were asked for; a freezer of version 1 is made when it
// is first needed.
package cgroup
