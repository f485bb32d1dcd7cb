package runner

import (
	"os"
	"runtime"
	"strings"
)

const (
	// initName is argv[0] of the init stage.
	initName = "varve-init"
	// stageEnv marks the process that StartSelf starts, and says what it has
	// to do first; Stage takes it out of the environment.
	stageEnv = "_VARVE_STAGE"
)

// A stage that becomes a program stays on the first thread of its process. Capabilities,
// PR_SET_PDEATHSIG and keyrings belong to a thread, and the first one is what /proc shows; an
// execve(2) by another has to end this one before it goes on. Later than here the thread may
// be another one already.
func init() {
	if len(os.Args) > 0 && (os.Args[0] == initName || os.Args[0] == execName) {
		runtime.LockOSThread()
	}
}

// Stage has to be the first call of main (and of TestMain of a package whose
// tests start containers). If this process was started by [Start] as the init
// stage, or by [Process.Exec] as the exec stage, it becomes a program of the container, or
// ends; as the watch, the clerk or the teller it serves its caller and ends. If it was started
// by [StartSelf] it waits until its user namespace is complete and returns, as it does in a
// process that was started by anybody else.
func Stage() {
	if len(os.Args) > 0 {
		switch os.Args[0] {
		case initName:
			initStage()
		case execName:
			execStage()
		case watchName:
			watchStage()
		case clerkName:
			clerkStage()
		case tellerName:
			tellerStage()
		}
	}
	if order := os.Getenv(stageEnv); order != "" {
		selfStage(strings.Fields(order))
	}
}
