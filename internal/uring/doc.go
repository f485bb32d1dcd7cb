// Package uring is the least of io_uring(7) that commands to a device need: a
// ring of one thread, into which commands are put and from which their ends come
// back, with one system call for both.
//
// Its nouns are the [Ring], the [Command] that goes in and the [End] that comes
// out. Its law: a command that was put in comes back once, and not before its
// memory may be used again.
//
// It knows nothing of what the commands mean; FUSE does (unionfs/uring.go).
package uring
