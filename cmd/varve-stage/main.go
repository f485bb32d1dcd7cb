//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"fmt"
	"os"

	_ "github.com/varvefs/varve/internal/hugeheap"
	"github.com/varvefs/varve/runner"
)

func main() {
	runner.Stage() // does not come back in a process that varve started
	fmt.Fprintln(os.Stderr, "varve-stage: this is a part of varve, which starts it")
	os.Exit(125)
}
