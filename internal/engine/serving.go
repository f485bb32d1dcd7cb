package engine

import (
	"runtime"
	"runtime/debug"
)

// tuneForServing sets this process up to serve a view that is about to be mounted.
//
// Requests are read by several threads that block in read(2). Each keeps a Go
// processor while it does, so with as many as the machine has there is none idle,
// and Go's monitor wakes up to take one back, request after request. With some to
// spare it does not: creating files and bringing them up took a tenth less time
// (docs/performance.md). The garbage collector is put back to normal, which main
// holds off for verbs that soon end.
func tuneForServing() {
	debug.SetGCPercent(100)
	runtime.GOMAXPROCS(max(8, 2*runtime.NumCPU()))
}
