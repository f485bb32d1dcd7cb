// Command varve is a union file system in user space and a container runner on
// top of it, in one static binary.
//
// Its law: a verb is one file, and in it flags become one call of the engine,
// and what that returns is printed. Output, flags and exit codes are docker's.
//
// Under another name, fuse-overlayfs or mount.fuse.varve, it is a face: it takes
// the command line of that program and mounts (face.go).
package main
