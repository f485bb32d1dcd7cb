package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Holders lists the processes that have something at or below dir open, mapped, or as
// their working directory or root, each with what it holds: why an unmount says EBUSY.
// A process that only looks at a path there in this moment is not among them, but all
// that wait for a server in a system call are named at the end, with the call.
func Holders(dir string) (list []string) {
	procs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is good
	for _, proc := range procs {
		for _, pattern := range []string{"cwd", "root", "exe", "fd/*", "map_files/*"} {
			links, _ := filepath.Glob(filepath.Join(proc, pattern))
			for _, link := range links {
				target, err := os.Readlink(link)
				if err == nil && (target == dir || strings.HasPrefix(target, dir+"/")) {
					list = append(list, fmt.Sprintf("%s: %s is %s", commandOf(proc), strings.TrimPrefix(link, proc+"/"), target))
				}
			}
		}
	}
	for _, proc := range procs {
		if where, err := os.ReadFile(filepath.Join(proc, "stack")); err == nil && isAsking(string(where)) {
			list = append(list, fmt.Sprintf("%s is inside FUSE: %s", commandOf(proc), strings.Join(strings.Fields(string(where)), " ")))
		}
	}
	slices.Sort(list)
	return list
}

// isAsking tells from its stack in the kernel whether a thread waits for a file system in user
// space; one that reads from or writes to the device is a server itself.
func isAsking(stack string) bool {
	return strings.Contains(stack, "fuse_") && !strings.Contains(stack, "fuse_dev_")
}

// commandOf is the pid and the name of the process behind a directory of /proc.
func commandOf(proc string) string {
	name, _ := os.ReadFile(filepath.Join(proc, "comm")) // it may have gone
	return filepath.Base(proc) + " (" + strings.TrimSpace(string(name)) + ")"
}
