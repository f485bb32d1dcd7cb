package container

import (
	"os"

	"github.com/varvefs/varve/internal/layout"
)

// A Place is a store as the containers in it see it: where things lie.
type Place struct {
	layout.Dir
	// program is varve itself, whose verbs do what a supervisor does not do itself. nil is
	// the program of this process.
	program *os.File
}
