// Package at is the only room that makes raw *at system calls: one directory
// file descriptor, one name, no path walked twice.
//
// Its law: a name given to a function of this package is one component (except
// for [Beneath], which says so), symbolic links are never followed in the last
// component, every descriptor is opened O_CLOEXEC, and a call interrupted by a
// signal is made again. Where a function reads or changes what a name stands
// for, the name "" means the file behind the descriptor itself, which may be an
// O_PATH one. Errors are *os.PathError with the name as it was given, so the
// caller adds only what it was doing.
//
// All functions may be called from several goroutines. A descriptor that a
// function returns belongs to the caller, who closes it.
package at
