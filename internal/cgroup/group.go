package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Group is the directories of one container, absolute. The zero Group is that of
// a container that has none; all methods work on it.
type Group struct {
	// Unified is its directory in the tree of version 2, "" for none.
	Unified string `json:"unified,omitempty"`
	// Controllers are those that limit something there.
	Controllers []string `json:"controllers,omitempty"`
	// V1 are its directories in trees of version 1, by controller.
	V1 map[string]string `json:"v1,omitempty"`
	// Freezer is where a freezer of version 1 may be made when it is needed.
	Freezer string `json:"freezer,omitempty"`
}

// Plan says where a group of that name, which has to be unlike all others on this
// machine, could be for the limits, and makes nothing yet. missing are the
// controllers (cpu, cpuset, memory, pids) that this user has no hand on.
func (h Host) Plan(name string, l Limits) (g Group, missing []string) {
	var unified []string
	for _, c := range l.controllers() {
		switch {
		case h.unified.mount != "" && slices.Contains(read(h.unified.mount, "cgroup.controllers"), c):
			unified = append(unified, c)
		case len(h.v1[c].above()) > 0:
			if g.V1 == nil {
				g.V1 = map[string]string{}
			}
			g.V1[c] = filepath.Join(h.v1[c].own, name)
		default:
			missing = append(missing, c)
		}
	}
	dir, found := h.unified.place(unified)
	if !found && len(unified) > 0 {
		missing, unified = append(missing, unified...), nil
		dir, found = h.unified.place(nil)
	}
	if found {
		g.Unified, g.Controllers = filepath.Join(dir, name), unified
	}
	if freezer := h.v1["freezer"].above(); g.Unified == "" && len(freezer) > 0 {
		g.Freezer = filepath.Join(freezer[0], name)
	}
	return g, missing
}

// IsZero tells whether the container has no group.
func (g Group) IsZero() bool { return g.Unified == "" && len(g.V1) == 0 && g.Freezer == "" }

// Make makes the directories of the group and sets the limits in them. A directory
// that can not be made is left out; the Group that is returned is what there is,
// and the error, if not nil, says what it lacks.
func (g Group) Make(l Limits) (Group, error) {
	made := Group{Freezer: g.Freezer}
	var errs []error
	if g.Unified != "" {
		if err := makeDir(g.Unified); err != nil {
			errs = append(errs, err)
		} else {
			made.Unified, made.Controllers = g.Unified, g.Controllers
		}
	}
	for name, dir := range g.V1 {
		if err := makeDir(dir); err != nil {
			errs = append(errs, err)
			continue
		}
		if made.V1 == nil {
			made.V1 = map[string]string{}
		}
		made.V1[name] = dir
	}
	return made, errors.Join(append(errs, made.apply(l))...)
}

// Joined are the directories that a process of the container has to move itself
// to: those of version 1.
func (g Group) Joined() []string { return slices.Sorted(maps.Values(g.V1)) }

func makeDir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make a control group: %w", err)
	}
	return nil
}

// Open opens the directory of version 2, for a process to be born in it. It is
// nil without an error where there is none. The caller closes it.
func (g Group) Open() (*os.File, error) {
	if g.Unified == "" {
		return nil, nil
	}
	f, err := os.OpenFile(g.Unified, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open the control group: %w", err)
	}
	return f, nil
}

// dirs lists all directories that the group may have.
func (g Group) dirs() []string {
	list := g.Joined()
	for _, dir := range []string{g.Unified, g.Freezer} {
		if dir != "" {
			list = append(list, dir)
		}
	}
	return list
}

// Remove removes the group, whose processes have ended or are about to: it waits
// up to a second for them. That it is gone already is no error.
func (g Group) Remove() error {
	// In a frozen group of version 1 nobody can end.
	if g.Freezer != "" {
		_ = set(g.Freezer, "freezer.state", "THAWED") // it may never have been made
	}
	var errs []error
	for _, dir := range g.dirs() {
		errs = append(errs, removeDir(dir))
	}
	return errors.Join(errs...)
}

// removeDir removes a directory of a group and the groups in it, which programs
// of the container may have made.
func removeDir(dir string) error {
	err := unix.Rmdir(dir)
	for end := time.Now().Add(time.Second); err == unix.EBUSY && time.Now().Before(end); err = unix.Rmdir(dir) {
		list, readErr := os.ReadDir(dir)
		if readErr != nil {
			break
		}
		for _, e := range list {
			if e.IsDir() {
				_ = removeDir(filepath.Join(dir, e.Name())) // the next attempt tells
			}
		}
		time.Sleep(time.Millisecond)
	}
	if err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove the control group %s: %w", dir, err)
	}
	return nil
}
