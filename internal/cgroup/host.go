package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// tree is one hierarchy: where it is mounted, and the directory of this process
// in it.
type tree struct{ mount, own string }

// Host is the trees of control groups of this machine. The zero value has none.
type Host struct {
	unified tree            // version 2; the zero tree if there is none
	v1      map[string]tree // by controller
}

// Find looks at the trees of this machine, and where in them this process is.
// A machine without any is not an error.
func Find() (Host, error) {
	places, err := os.ReadFile("/proc/self/cgroup")
	if errors.Is(err, fs.ErrNotExist) { // a kernel without them
		return Host{}, nil
	}
	if err != nil {
		return Host{}, fmt.Errorf("find the control groups: %w", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return Host{}, fmt.Errorf("find the control groups: %w", err)
	}
	return parse(string(places), string(mounts)), nil
}

// parse reads cgroups(7), /proc/PID/cgroup, and proc_pid_mountinfo(5).
func parse(places, mounts string) Host {
	h := Host{v1: map[string]tree{}}
	own := map[string]string{} // the path of this process by controller, "" for version 2
	for line := range strings.Lines(places) {
		field := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(field) != 3 {
			continue
		}
		for name := range strings.SplitSeq(field[1], ",") {
			own[name] = field[2]
		}
	}
	for line := range strings.Lines(mounts) {
		left, right, _ := strings.Cut(line, " - ")
		mount, kind := strings.Fields(left), strings.Fields(right)
		if len(mount) < 5 || len(kind) < 3 {
			continue
		}
		switch kind[0] {
		case "cgroup2":
			h.unified = nearer(h.unified, mount, own[""])
		case "cgroup":
			for name := range strings.SplitSeq(kind[2], ",") {
				if path, has := own[name]; has {
					h.v1[name] = nearer(h.v1[name], mount, path)
				}
			}
		}
	}
	return h
}

// nearer is the tree of a line of mountinfo, unless one is known already.
func nearer(known tree, mount []string, own string) tree {
	if known.mount != "" || own == "" {
		return known
	}
	root, point := unescape(mount[3]), unescape(mount[4])
	below, err := filepath.Rel(root, own)
	if err != nil || below == ".." || strings.HasPrefix(below, "../") {
		below = "." // mounted from elsewhere, as in some containers: its top has to do
	}
	return tree{mount: point, own: filepath.Join(point, below)}
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// above lists the directories of the tree from that of this process up to the
// mount point, as far as this process may make groups in them and move processes
// between them.
func (t tree) above() []string {
	var list []string
	if t.mount == "" {
		return nil
	}
	for dir := t.own; ; dir = filepath.Dir(dir) {
		if unix.Access(dir, unix.W_OK) != nil || unix.Access(filepath.Join(dir, procsName), unix.W_OK) != nil {
			return list
		}
		list = append(list, dir)
		if dir == t.mount || dir == "/" {
			return list
		}
	}
}

const (
	procsName = "cgroup.procs"
	typeName  = "cgroup.type"
)

// word reads a small file of a group, without the white space around it.
func word(dir, name string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimSpace(string(raw)), err
}

// set writes a small file of a group in one call, as the kernel wants it.
func set(dir, name, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// Version is docker's word for the trees of this machine: "2" where there is only that of
// version 2, "1" where there are others, "" where there is none.
func Version() string {
	var st unix.Statfs_t
	switch err := unix.Statfs("/sys/fs/cgroup", &st); {
	case err != nil:
		return ""
	case st.Type == unix.CGROUP2_SUPER_MAGIC:
		return "2"
	case st.Type == unix.TMPFS_MAGIC:
		return "1"
	}
	return ""
}
