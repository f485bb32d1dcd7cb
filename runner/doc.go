// Package runner turns a directory into the root of an isolated process tree.
//
// Its law: nothing inside leads outside. The program sees the root it was
// given, fresh /proc, /dev and /sys, the volumes it was promised, the file
// descriptors 0 to 2, and nothing else of this machine; and it does not live
// longer than the process that started it. (The network is shared unless
// [NoNetwork] is asked for.)
//
// The nouns:
//
//   - a stage is this same binary, executed again to do one piece of work that
//     needs a process of its own, because namespaces belong to processes and a
//     Go program has many threads. [Stage] at the top of main does that work;
//   - a [Userns] is a plan for the user namespace in which one who is not root
//     may mount and own files;
//   - [StartSelf] runs this binary again inside such a namespace;
//   - [Start] runs a program as process 1 of a container: the init stage makes
//     the mounts, changes the root, drops the privileges, and becomes the
//     program by execve(2);
//   - a [Process] is such a program, alive or ended;
//   - a [Pretence] answers what programs ask about users and owners, where the user
//     namespace has a single id.
//
// How paths are kept inside. The init stage opens everything that comes from
// outside (volumes, devices, the new /proc and /sys) as mounts that are attached
// nowhere yet, changes its root, and lets go of the old one. Only then is a path
// in the image looked at, with openat2(2) bound to the root and no magic links,
// and the mount is attached to the descriptor that gave. No path is walked
// twice, so nothing can be swapped in between (CVE-2021-30465, CVE-2025-31133,
// CVE-2025-52565), and where a link would lead out there is nothing any more.
//
// The caller of [Start] often serves the file system that is the root. So it
// never does a system call on a path inside it: only the init stage does.
//
// The kernel has to be Linux 5.12 or newer (mount_setattr, openat2,
// close_range), and /proc has to be mounted.
package runner
