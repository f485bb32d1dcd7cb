package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/varvefs/varve/internal/archive"
	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/layerdb"
	"github.com/varvefs/varve/runner"
)

// usernsSize is how many ids a container has with --userns=auto: as root all that there are,
// as an ordinary user, who has as many altogether, what is enough for most.
func usernsSize(plan *runner.Userns) int {
	if plan == nil {
		return 1 << 16
	}
	return 1 << 12
}

// setUserns reads podman's --userns.
func setUserns(b *container.Sandbox, i Isolation) error {
	if b.Userns = i.Userns; checkMode(i.Userns, "", "host") { // of another container the ids are known later
		return nil
	}
	plan, err := runner.PlanUserns()
	if err != nil {
		return err
	}
	mode, options, _ := strings.Cut(i.Userns, ":")
	switch mode {
	case container.UsernsKeepID:
		_, _, err = container.KeepIDOptions(options)
	case container.UsernsNoMap:
		if options != "" {
			err = errors.New("--userns: nomap has no options")
		}
	case container.UsernsAuto:
		_, err = autoSize(options, plan)
	default:
		err = errors.New("--userns: invalid USER mode")
	}
	if err != nil {
		return err
	}
	if plan == nil {
		return refuseAsRoot(mode, i)
	}
	return needsRange(mode, plan)
}

// needsRange refuses what a single id is too few for.
func needsRange(mode string, plan *runner.Userns) error {
	if plan != nil && plan.Single && mode != container.UsernsKeepID {
		return fmt.Errorf("--userns %s needs more ids than your own: %s", mode, plan.Reason)
	}
	return nil
}

var errPrivileged = errors.New("privileged mode is incompatible with user namespaces: leave out one of --privileged and --userns")

// refuseAsRoot refuses what podman, or docker, does of root.
func refuseAsRoot(mode string, i Isolation) error {
	switch {
	case mode != container.UsernsAuto:
		return fmt.Errorf("%s is only supported in rootless mode: root has no id to be kept", mode)
	case i.Privileged:
		return errPrivileged
	case i.PID == "host":
		return errors.New("cannot share the host PID namespace when user namespaces are enabled: leave out one of --pid and --userns")
	}
	return nil
}

// autoSize reads what is behind "auto:".
func autoSize(options string, plan *runner.Userns) (int, error) {
	size := usernsSize(plan)
	if options == "" {
		return size, nil
	}
	for option := range strings.SplitSeq(options, ",") {
		name, value, _ := strings.Cut(option, "=")
		n, err := strconv.ParseUint(value, 10, 31)
		if name != "size" || err != nil || n == 0 {
			return 0, fmt.Errorf("--userns: invalid option %q of auto: there is size=N", option)
		}
		size = int(n)
	}
	return size, nil
}

// Where the ids of root's containers are from, if /etc/subuid and /etc/subgid grant none to
// the user "containers": nobody gives away ids from here on (UIDS-GIDS.md of systemd), and
// up to 2147352576, from where on systemd does, there is room for 4094 containers.
const (
	firstAutoID = 0x70000000
	autoIDs     = 4094 << 16
	autoOwner   = "containers" // as podman has it
)

// allotIDs gives a container with --userns=auto ids that no other container of this store
// has.
func (e *Engine) allotIDs(tx *layerdb.Tx, spec *container.Spec) error {
	mode, options, _ := strings.Cut(spec.Sandbox.Userns, ":")
	if mode != container.UsernsAuto {
		return nil
	}
	plan, err := planUserns(e.Root())
	if err == nil {
		err = needsRange(mode, plan)
	}
	if err != nil {
		return err
	}
	size, err := autoSize(options, plan)
	if err != nil {
		return err
	}
	uids, gids, err := e.allottedIDs(tx, spec.ID)
	if err != nil {
		return err
	}
	var uidPool, gidPool []runner.IDMap
	if plan != nil { // 0 is the user himself
		uidPool = []runner.IDMap{{Outside: 1, Size: container.IDCount(plan.UIDs) - 1}}
		gidPool = []runner.IDMap{{Outside: 1, Size: container.IDCount(plan.GIDs) - 1}}
	} else if uidPool, gidPool, err = runner.GrantedIDs(autoOwner); err != nil {
		return err
	}
	if len(uidPool) == 0 || len(gidPool) == 0 {
		uidPool = []runner.IDMap{{Outside: firstAutoID, Size: autoIDs}}
		gidPool = uidPool
		others, otherGroups, err := runner.GrantedIDs("")
		if err != nil {
			return err
		}
		uids, gids = append(uids, others...), append(gids, otherGroups...)
	}
	box := &spec.Sandbox
	if box.UIDs, err = freeIDs(uidPool, uids, size); err == nil {
		box.GIDs, err = freeIDs(gidPool, gids, size)
	}
	return err
}

// allottedIDs are those of all containers but one.
func (e *Engine) allottedIDs(tx *layerdb.Tx, but string) (uids, gids []runner.IDMap, err error) {
	list, err := tx.Containers()
	if err != nil {
		return nil, nil, err
	}
	for _, c := range list {
		if c.ID == but {
			continue
		}
		spec, err := e.ReadSpec(c.ID)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it is being removed
		}
		if err != nil {
			return nil, nil, err
		}
		uids, gids = append(uids, spec.Sandbox.UIDs...), append(gids, spec.Sandbox.GIDs...)
	}
	return uids, gids, nil
}

// freeIDs are the first so many ids of the pool, in a row, of which none is taken.
func freeIDs(pool, taken []runner.IDMap, size int) ([]runner.IDMap, error) {
	for _, p := range pool {
		first := p.Outside
		for first+size <= p.Outside+p.Size {
			next := first
			for _, t := range taken {
				if t.Outside < first+size && first < t.Outside+t.Size {
					next = max(next, t.Outside+t.Size)
				}
			}
			if next == first {
				return []runner.IDMap{{Inside: 0, Outside: first, Size: size}}, nil
			}
			first = next
		}
	}
	return nil, fmt.Errorf("not enough unused IDs in user namespace: no %d in a row are left for --userns %s; "+
		"remove a container that has some, or ask for fewer with auto:size=N", size, container.UsernsAuto)
}

// insideID is the way back; who is nobody inside is the overflow id.
func insideID(ids []runner.IDMap, outside uint32) uint32 {
	if len(ids) == 0 {
		return outside
	}
	id := int(outside)
	i := slices.IndexFunc(ids, func(m runner.IDMap) bool { return id >= m.Outside && id < m.Outside+m.Size })
	if i < 0 {
		return overflowID
	}
	return uint32(ids[i].Inside + id - ids[i].Outside)
}

// showInside has a file that was read in a view have its owner inside.
func showInside(b *container.Sandbox, f *archive.File) {
	f.Stat.Uid, f.Stat.Gid = insideID(b.UIDs, f.Stat.Uid), insideID(b.GIDs, f.Stat.Gid)
}
