package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// delegated tells whether systemd has left the group to who is in it (its page
// CGROUP_DELEGATION). The second name is that of older ones, which only root can read.
// Where it is not delegated a container that is killed for memory would have the unit stopped.
func delegated(dir string) bool {
	var value [1]byte
	for _, name := range []string{"user.delegate", "trusted.delegate"} {
		if n, err := unix.Getxattr(dir, name, value[:]); err == nil && n == 1 && value[0] == '1' {
			return true
		}
	}
	return askedFor("/run/user", dir)
}

// askedFor tells whether systemd-run was asked to delegate the group of a user's unit, whose
// manager, before systemd 253, marks none. run has the directories of the users.
func askedFor(run, dir string) bool {
	_, below, _ := strings.Cut(dir, "/user@")
	uid, below, found := strings.Cut(below, ".service/")
	if !found {
		return false
	}
	text, _ := os.ReadFile(filepath.Join(run, filepath.Base(uid), "systemd/transient", filepath.Base(below))) // not by systemd-run
	for line := range strings.Lines(string(text)) {
		if value, is := strings.CutPrefix(strings.TrimSpace(line), "Delegate="); is {
			return value != "" && value != "no"
		}
	}
	return false
}

// Passing lists those of the group's controllers that systemd switches off, and their
// limits with them, when it looks after the groups that it has not delegated: those that
// none of its units needs. It counts memory and pids of every unit.
func (g Group) Passing() []string { return g.passing("/run/systemd/system") }

// passing is Passing; booted is the directory that is there where systemd is.
func (g Group) passing(booted string) []string {
	if _, err := os.Stat(booted); err != nil || g.Unified == "" || left(filepath.Dir(g.Unified)) {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(g.Controllers), func(c string) bool { return c != "cpu" && c != "cpuset" })
}

// left tells whether dir is in a delegated group. What is delegated to a user's manager
// is systemd's again.
func left(dir string) bool {
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if delegated(dir) && !strings.HasPrefix(filepath.Base(dir), "user@") {
			return true
		}
	}
	return false
}
