package engine

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/runner"
)

// Inside makes sure that this process may touch the files of layers. It returns
// entered false if it may already: it is root, or in its user namespace. If not,
// the same command has been run again in such a namespace, on the store at root
// ("" for the default), and has ended with code.
func Inside(root string, args []string) (entered bool, code int, err error) {
	if root == "" {
		if root, err = DefaultRoot(); err != nil {
			return false, 0, err
		}
	}
	if root, err = filepath.Abs(root); err != nil {
		return false, 0, fmt.Errorf("find the store: %w", err)
	}
	plan, err := planUserns(root)
	if err != nil || plan == nil {
		return false, 0, err
	}
	code, err = inside(plan, root, args)
	return true, code, err
}

// inside runs this binary with args in the user namespace, and waits for it.
func inside(plan *runner.Userns, root string, args []string) (int, error) {
	p, err := runner.StartSelf(runner.Self{
		Args:   append([]string{"varve"}, args...),
		Env:    container.Environ(root),
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
