// Package seccomp decides which system calls the programs of a container may
// make: docker's profiles, compiled to the kernel's filters in pure Go.
//
// Its law: the filter gives for every system call, number and arguments, of every
// architecture that the kernel runs here, what the profile says.
//
// A [Profile] is docker's JSON (github.com/moby/profiles/seccomp; default.json here
// is made from it: the rules for x86 and ARM, without those on kernels older than
// varve needs). What it allows depends on the capabilities of the container. A
// [Program] is what it compiles to, for the architecture of this binary and those
// that its kernel runs, too. The program of the default profile with docker's
// default capabilities is compiled beforehand: reading the JSON would cost each
// start a millisecond.
//
// A number above all that a profile of what is allowed knows of gives ENOSYS and not
// what the profile has for the rest, so that libraries fall back from system calls
// that are newer.
package seccomp
