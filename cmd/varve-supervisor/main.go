//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"github.com/varvefs/varve/internal/container"
	_ "github.com/varvefs/varve/internal/hugeheap"
	"github.com/varvefs/varve/runner"
)

func main() {
	runner.Stage()                                          // a stage of a container never comes back from here
	debug.SetGCPercent(800)                                 // as in varve: who lives on sets it back
	_ = os.WriteFile("/proc/self/comm", []byte("varve"), 0) // for ps: else it is the number of a descriptor
	code, err := run(os.Args[1:])
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintln(os.Stderr, "varve:", strings.TrimRight(line, "\n"))
		}
	}
	os.Exit(code)
}

// run does what varve asks for.
func run(args []string) (code int, err error) {
	switch {
	case len(args) == 2 && args[0] == "supervise":
		return container.Supervise(os.Getenv(container.RootVariable), args[1], container.VarveFile())
	case len(args) > 2 && args[0] == "flush":
		if err = container.Flush(args[1], args[2:]); err != nil {
			code = 1
		}
		return code, err
	}
	return container.CodeFailed, fmt.Errorf("varve-supervisor: this is a part of varve, which starts it")
}
