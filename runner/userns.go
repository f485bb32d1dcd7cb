package runner

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// IDMap says that the Size ids from Inside on are those from Outside on in the
// parent user namespace.
type IDMap struct{ Inside, Outside, Size int }

// Userns is the plan of a user namespace, or the one this process is in.
type Userns struct {
	UIDs, GIDs []IDMap
	// Single says that there is one id, 0, and that it can not be changed:
	// chown, setuid and setgroups fail.
	Single bool
	// Reason says what PlanUserns missed for more than one id, and what to do.
	Reason string

	uidHelper, gidHelper string // absolute paths of newuidmap and newgidmap
}

// PlanUserns returns the user namespace that the user of this process should
// work in: nil for root with CAP_SYS_ADMIN, who needs none; else all ids that
// /etc/subuid and /etc/subgid grant, if newuidmap and newgidmap are there to
// map them; else the user's own id as 0, alone. An error is one of reading these
// files.
func PlanUserns() (*Userns, error) {
	privileged, err := isPrivileged()
	if err != nil || privileged {
		return nil, err
	}
	uidHelper, gidHelper := findHelper("newuidmap"), findHelper("newgidmap")
	if uidHelper == "" || gidHelper == "" {
		return SingleUserns("newuidmap and newgidmap are not installed: as root, apt-get install uidmap"), nil
	}
	names := ownNames()
	uids, err := readSubids("/etc/subuid", names)
	if err != nil {
		return nil, err
	}
	gids, err := readSubids("/etc/subgid", names)
	if err != nil {
		return nil, err
	}
	if len(uids) == 0 || len(gids) == 0 {
		return SingleUserns(fmt.Sprintf("/etc/subuid and /etc/subgid grant no ids to %s: as root, "+
			"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s", names[0], names[0])), nil
	}
	return &Userns{UIDs: withSelf(os.Geteuid(), uids), GIDs: withSelf(os.Getegid(), gids),
		uidHelper: uidHelper, gidHelper: gidHelper}, nil
}

// CurrentUserns returns the user namespace of this process, nil if it is the
// machine's own (all ids are themselves). It can not be handed to StartSelf.
func CurrentUserns() (*Userns, error) {
	uids, err := readMap("/proc/self/uid_map")
	if err != nil {
		return nil, err
	}
	gids, err := readMap("/proc/self/gid_map")
	if err != nil {
		return nil, err
	}
	if len(uids) == 1 && uids[0].Inside == uids[0].Outside && uids[0].Size == 1<<32-1 {
		return nil, nil
	}
	single := len(uids) == 1 && uids[0].Size == 1
	return &Userns{UIDs: uids, GIDs: gids, Single: single}, nil
}

func readMap(name string) ([]IDMap, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the user namespace: %w", err)
	}
	var list []IDMap
	for line := range strings.Lines(string(data)) {
		var m IDMap
		if _, err = fmt.Sscan(line, &m.Inside, &m.Outside, &m.Size); err != nil {
			return nil, fmt.Errorf("read the user namespace: %s: %q: %w", name, line, err)
		}
		list = append(list, m)
	}
	return list, nil
}

func isPrivileged() (bool, error) {
	if os.Geteuid() != 0 {
		return false, nil
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false, fmt.Errorf("capget: %w", err)
	}
	return data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0, nil
}

// SingleUserns is one with the id of the user of this process alone, where there might be
// more. reason is for Userns.Reason.
func SingleUserns(reason string) *Userns {
	return &Userns{Single: true, Reason: reason,
		UIDs: []IDMap{{0, os.Geteuid(), 1}}, GIDs: []IDMap{{0, os.Getegid(), 1}}}
}

// withSelf maps the user to 0 and what was granted from 1 on.
func withSelf(id int, granted []IDMap) []IDMap {
	list, next := []IDMap{{0, id, 1}}, 1
	for _, m := range granted {
		list = append(list, IDMap{next, m.Outside, m.Size})
		next += m.Size
	}
	return list
}

// findHelper looks in the usual places, too: PATH may be narrow in services.
func findHelper(name string) string {
	for _, candidate := range []string{name, "/usr/bin/" + name, "/bin/" + name, "/usr/local/bin/" + name} {
		if file, err := exec.LookPath(candidate); err == nil && filepath.IsAbs(file) {
			return file
		}
	}
	return ""
}

// ownNames is what lines of /etc/subuid and /etc/subgid may begin with: both are
// by user, subuid(5). A user without a name has the number alone.
func ownNames() []string {
	id := strconv.Itoa(os.Geteuid())
	if u, err := user.LookupId(id); err == nil {
		return []string{u.Username, id}
	}
	return []string{id}
}

// GrantedIDs returns what /etc/subuid and /etc/subgid grant to owner, "" for everybody, as
// IDMaps with nothing inside.
func GrantedIDs(owner string) (uids, gids []IDMap, err error) {
	var owners []string
	if owner != "" {
		owners = []string{owner}
	}
	if uids, err = readSubids("/etc/subuid", owners); err == nil {
		gids, err = readSubids("/etc/subgid", owners)
	}
	return uids, gids, err
}

// readSubids returns the ranges of the user, whom one of owners names; without any name
// those of all. A file that is not there grants nothing, and a line that is no grant is
// skipped, as newuidmap does.
func readSubids(name string, owners []string) ([]IDMap, error) {
	file, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the ids granted to you: %w", err)
	}
	defer func() { _ = file.Close() }() // only read
	var list []IDMap
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if m, ok := parseSubid(lines.Text(), owners); ok {
			list = append(list, m)
		}
	}
	if err = lines.Err(); err != nil {
		return nil, fmt.Errorf("read the ids granted to you: %s: %w", name, err)
	}
	return list, nil
}

// parseSubid reads "owner:first:count".
func parseSubid(line string, owners []string) (IDMap, bool) {
	fields := strings.Split(strings.TrimSpace(line), ":")
	if len(fields) != 3 {
		return IDMap{}, false
	}
	first, err1 := strconv.ParseUint(fields[1], 10, 32)
	count, err2 := strconv.ParseUint(fields[2], 10, 32)
	if err1 != nil || err2 != nil || count == 0 {
		return IDMap{}, false
	}
	if owners != nil && !slices.Contains(owners, fields[0]) {
		return IDMap{}, false
	}
	return IDMap{Outside: int(first), Size: int(count)}, true
}

// mapError is a refusal by newuidmap or newgidmap.
type mapError struct {
	helper, said string
	err          error
}

func (e *mapError) Error() string {
	return fmt.Sprintf("%s: %v: %s: check that %s is set-user-ID root (apt-get install --reinstall uidmap) and "+
		"that the lines of this user in /etc/subuid and /etc/subgid do not overlap others",
		e.helper, e.err, e.said, e.helper)
}

func (e *mapError) Unwrap() error { return e.err }

// writeTo maps the ids of process pid with the set-user-ID helpers, both at the
// same time: most of what they take is their start.
func (u *Userns) writeTo(pid int) error {
	done := make(chan error, 1)
	go func() { done <- runHelper(u.gidHelper, pid, u.GIDs) }()
	err := runHelper(u.uidHelper, pid, u.UIDs)
	return errors.Join(err, <-done)
}

func runHelper(helper string, pid int, ids []IDMap) error {
	args := []string{strconv.Itoa(pid)}
	for _, m := range ids {
		args = append(args, strconv.Itoa(m.Inside), strconv.Itoa(m.Outside), strconv.Itoa(m.Size))
	}
	cmd := exec.Command(helper, args...)
	said, err := cmd.CombinedOutput()
	if err != nil {
		return &mapError{helper, string(bytes.TrimSpace(said)), err}
	}
	return nil
}
