package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/runner"
)

// planUserns is runner.PlanUserns for the store at root. Files of a store that was begun with
// a single id keep their owners in an attribute, and stand for links and devices. So it stays
// such a store when its user is granted a range of ids: with that the links would be files.
func planUserns(root string) (*runner.Userns, error) {
	plan, err := runner.PlanUserns()
	if err != nil || plan == nil || plan.Single {
		return plan, err
	}
	switch _, err = os.Lstat(filepath.Join(root, layout.SingleName)); {
	case errors.Is(err, fs.ErrNotExist):
		return plan, nil
	case err != nil:
		return nil, fmt.Errorf("find out whose ids are in the store: %w", err)
	}
	return runner.SingleUserns(fmt.Sprintf("the store %s was begun with a single id, and stays one of that: varve --root ANOTHER uses your range", root)), nil
}

// isSingle tells whether the user has a single id.
func isSingle() (bool, error) {
	ns, err := runner.CurrentUserns()
	if err != nil || ns != nil {
		return ns != nil && ns.Single, err
	}
	plan, err := runner.PlanUserns()
	return plan != nil && plan.Single, err
}
