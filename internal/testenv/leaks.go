package testenv

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// CheckLeaks notes the mounts, processes and descriptors of now, and when the
// test ends fails it for each that came and did not go within twenty seconds:
//
//   - FUSE mounts that this process sees below the temporary directory of the
//     test, or below any of dirs;
//   - processes that descend from this one, and orphans whose root is a FUSE
//     mount (a container that outlived its supervisor);
//   - descriptors of this process.
//
// Call it first in a test, so that it looks after all other clean-up. It is not
// for tests that run in parallel with others of the same process.
func CheckLeaks(t testing.TB, dirs ...string) {
	t.Helper()
	dirs = append(dirs, filepath.Dir(t.TempDir()))
	mounts, procs, fds := fuseMounts(dirs), running(), descriptors()
	t.Cleanup(func() {
		kinds := map[string]func() []string{
			"mount":      func() []string { return added(mounts, fuseMounts(dirs)) },
			"process":    func() []string { return added(procs, running()) },
			"descriptor": func() []string { return added(fds, descriptors()) },
		}
		gone := within(20*time.Second, func() bool {
			for _, leaked := range kinds {
				if len(leaked()) > 0 {
					return false
				}
			}
			return true
		})
		if gone { // what comes after that is another package's
			return
		}
		for what, leaked := range kinds {
			for _, one := range leaked() {
				t.Errorf("the test left a %s behind: %s", what, one)
			}
		}
	})
}

// added lists what is in now and was not in before, sorted.
func added(before, now map[string]bool) []string {
	maps.DeleteFunc(now, func(one string, _ bool) bool { return before[one] })
	return slices.Sorted(maps.Keys(now))
}

// fuseMounts lists the FUSE mount points at or below one of dirs.
func fuseMounts(dirs []string) map[string]bool {
	list := map[string]bool{}
	for point, kind := range mountTable("/proc/self/mountinfo") {
		below := slices.ContainsFunc(dirs, func(dir string) bool {
			return point == dir || strings.HasPrefix(point, dir+"/")
		})
		if below && strings.HasPrefix(kind, "fuse") {
			list[point] = true
		}
	}
	return list
}

// mountTable reads mount points and file system types from a mountinfo file
// (proc_pid_mountinfo(5)); of several on one point the topmost counts.
func mountTable(file string) map[string]string {
	data, err := os.ReadFile(file)
	if err != nil { // the process has gone, or is not ours to look at
		return nil
	}
	table := map[string]string{}
	for line := range strings.Lines(string(data)) {
		left, right, ok := strings.Cut(line, " - ")
		field := strings.Fields(left)
		kind, _, _ := strings.Cut(right, " ")
		if ok && len(field) > 4 {
			table[unescape(field[4])] = kind
		}
	}
	return table
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// running lists the live processes that a test of this process is behind.
func running() map[string]bool {
	list := map[string]bool{}
	all := processes()
	parents := map[int]int{}
	for _, p := range all {
		parents[p.pid] = p.parent
	}
	for _, p := range all {
		if p.state != 'Z' && (descends(parents, p.pid) || p.parent == 1 && rootIsFUSE(p.pid)) {
			list[fmt.Sprintf("%v, started at tick %d", p, p.start)] = true
		}
	}
	return list
}

// descends tells whether pid is a child of this process, or a child's child.
func descends(parents map[int]int, pid int) bool {
	for range len(parents) { // a table read while it changes may have a loop
		pid = parents[pid]
		if pid == os.Getpid() {
			return true
		}
	}
	return false
}

func rootIsFUSE(pid int) bool {
	return strings.HasPrefix(mountTable(fmt.Sprintf("/proc/%d/mountinfo", pid))["/"], "fuse")
}

// processes reads the process table; processes that go meanwhile are left out.
func processes() []process {
	entries, err := os.ReadDir("/proc")
	if err != nil { // no /proc, no processes to see
		return nil
	}
	var list []process
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if p, ok := readProcess(pid); ok {
				list = append(list, p)
			}
		}
	}
	return list
}

// readProcess reads /proc/PID/stat (proc_pid_stat(5)) and the user ids.
func readProcess(pid int) (process, bool) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return process{}, false
	}
	// The name stands in parentheses and may itself hold any character.
	text := string(stat)
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return process{}, false
	}
	field := strings.Fields(text[end+1:])
	if len(field) < 20 {
		return process{}, false
	}
	p := process{pid: pid, name: text[open+1 : end], state: field[0][0]}
	p.parent, _ = strconv.Atoi(field[1])              // the kernel writes numbers
	p.start, _ = strconv.ParseUint(field[19], 10, 64) // field 22 of the page
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		return process{}, false
	}
	for line := range strings.Lines(string(status)) {
		if ids, ok := strings.CutPrefix(line, "Uid:"); ok {
			p.uids = strings.Fields(ids)
		}
	}
	return p, true
}

// descriptors lists the open descriptors of this process with what they are.
// The runtime's own, made when first needed, are left out.
func descriptors() map[string]bool {
	list := map[string]bool{}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil { // no /proc
		return list
	}
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || target == "anon_inode:[eventpoll]" || target == "anon_inode:[eventfd]" {
			continue // the descriptor of this very listing, or the poller
		}
		list[e.Name()+" → "+target] = true
	}
	return list
}
