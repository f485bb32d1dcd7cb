package container

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// RootVariable is the variable of the environment that names the store.
const RootVariable = "VARVE_ROOT"

// varveFD is the descriptor of varve's own file in a supervisor that is a program of its
// own, behind that of the control connection.
const varveFD = 4

// VarveFile returns that file, for [Supervise]. No program that is started here gets it
// unasked.
func VarveFile() *os.File {
	unix.CloseOnExec(varveFD)
	return os.NewFile(varveFD, "varve")
}

// PrintWarning tells a person what a container has to do without.
func PrintWarning(text string) { fmt.Fprintln(os.Stderr, "varve: warning:", text) }

// Environ is this process's environment, but with the store said explicitly: in
// a user namespace everybody is root, and would look for root's. Of two values of
// one name Go takes the first, so the old one goes.
func Environ(root string) []string {
	const name = RootVariable + "="
	env := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, name) })
	return append(env, name+root)
}
