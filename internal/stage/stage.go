package stage

import (
	_ "embed" // the program
	"errors"
	"os"
	"strings"

	"github.com/varvefs/varve/runner"
)

//go:embed program
var program string

// ErrNone is that this varve was built without the program.
var ErrNone = errors.New("built without a stage program")

// Open returns the program in sealed memory, for runner.Config: whoever gets hold of
// it, as by /proc/1/exe in a container, can not write to it (CVE-2019-5736). It is the
// caller's to close. Open fails with ErrNone, and where memory can not be executed.
func Open() (*os.File, error) {
	if program == "" {
		return nil, ErrNone
	}
	return runner.Seal(strings.NewReader(program))
}
