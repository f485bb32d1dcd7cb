package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/varvefs/varve/runner"
)

// Inside makes sure that this process may touch the files of layers. It returns
// entered false if it may already: it is root, or in its user namespace. If not,
// the same command has been run again in such a namespace, on the store at root
// ("" for the default), and has ended with code.
func Inside(root string, args []string) (entered bool, code int, err error) {
	plan, err := runner.PlanUserns()
	if err != nil || plan == nil {
		return false, 0, err
	}
	if root == "" {
		if root, err = DefaultRoot(); err != nil {
			return false, 0, err
		}
	}
	if root, err = filepath.Abs(root); err != nil {
		return false, 0, fmt.Errorf("find the store: %w", err)
	}
	code, err = inside(plan, root, args)
	return true, code, err
}

// inside runs this binary with args in the user namespace, and waits for it.
func inside(plan *runner.Userns, root string, args []string) (int, error) {
	p, err := runner.StartSelf(runner.Self{
		Args:   append([]string{"varve"}, args...),
		Env:    environ(root),
		Stdin:  os.Stdin,
		Stdout: os.Stdout,
		Stderr: os.Stderr,
		Userns: plan,
	})
	if err != nil {
		return 0, fmt.Errorf("enter the user namespace: %w", err)
	}
	return p.Wait()
}

// environ is this process's environment, but with the store said explicitly: in
// a user namespace everybody is root, and would look for root's. Of two values of
// one name Go takes the first, so the old one goes.
func environ(root string) []string {
	const name = "VARVE_ROOT="
	env := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, name) })
	return append(env, name+root)
}
