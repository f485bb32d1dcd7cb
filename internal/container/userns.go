package container

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/varvefs/varve/runner"
	"github.com/varvefs/varve/unionfs"
)

// The modes of podman's --userns, beside host, which is the default.
const (
	UsernsAuto   = "auto"    // ids of its own, as no other container has
	UsernsKeepID = "keep-id" // the caller is the same user inside
	UsernsNoMap  = "nomap"   // the caller is nobody inside
)

// KeepIDOptions reads what is behind "keep-id:"; -1 is not said.
func KeepIDOptions(options string) (uid, gid int, err error) {
	uid, gid = -1, -1
	if options == "" {
		return uid, gid, nil
	}
	for option := range strings.SplitSeq(options, ",") {
		name, value, _ := strings.Cut(option, "=")
		n, err := strconv.ParseUint(value, 10, 31)
		switch {
		case err == nil && name == "uid":
			uid = int(n)
		case err == nil && name == "gid":
			gid = int(n)
		default:
			return 0, 0, fmt.Errorf("--userns: invalid option %q of keep-id: there are uid=N and gid=N", option)
		}
	}
	return uid, gid, nil
}

// MapOwnID works out the ids of the modes that depend on those of this process's user namespace,
// in which a container of an ordinary user is started, and who its user is. With another
// container's namespace the ids are that one's.
func (p Place) MapOwnID(b *Sandbox) error {
	if id := Donor(b.Userns); id != "" {
		spec, err := p.ReadSpec(id)
		if err == nil {
			err = p.MapOwnID(&spec.Sandbox)
		}
		b.UIDs, b.GIDs = spec.Sandbox.UIDs, spec.Sandbox.GIDs
		return err
	}
	mode, options, _ := strings.Cut(b.Userns, ":")
	if mode != UsernsKeepID && mode != UsernsNoMap {
		return nil
	}
	ns, err := runner.CurrentUserns()
	if err == nil && ns == nil {
		err = fmt.Errorf("%s is only supported in rootless mode", mode)
	}
	if err != nil {
		return err
	}
	users, groups := IDCount(ns.UIDs), IDCount(ns.GIDs)
	if mode == UsernsNoMap {
		if ns.Single {
			return errors.New("--userns nomap needs more ids than your own")
		}
		b.UIDs, b.GIDs = []runner.IDMap{{Inside: 0, Outside: 1, Size: users - 1}}, []runner.IDMap{{Inside: 0, Outside: 1, Size: groups - 1}}
		return nil
	}
	uid, gid, err := KeepIDOptions(options)
	if err != nil {
		return err
	}
	if uid < 0 {
		uid = runner.OutsideID(ns.UIDs, 0)
	}
	if gid < 0 {
		gid = runner.OutsideID(ns.GIDs, 0)
	}
	b.UIDs, b.GIDs = keptID(uid, users), keptID(gid, groups)
	b.keeper = fmt.Sprintf("%d:%d", uid, gid)
	return nil
}

// IDCount is how many ids a user namespace has, which are in a row.
func IDCount(ids []runner.IDMap) int {
	count := 0
	for _, m := range ids {
		count += m.Size
	}
	return count
}

// keptID has the id 0 of a namespace with so many be id in one below it, and all others
// around that.
func keptID(id, count int) []runner.IDMap {
	var list []runner.IDMap
	below := min(id, count-1)
	if below > 0 {
		list = append(list, runner.IDMap{Inside: 0, Outside: 1, Size: below})
	}
	list = append(list, runner.IDMap{Inside: id, Outside: 0, Size: 1})
	if above := count - 1 - below; above > 0 {
		list = append(list, runner.IDMap{Inside: id + 1, Outside: below + 1, Size: above})
	}
	return list
}

// viewIDs has a view show the ids of the disk, which are those inside, as the user namespace
// has them outside.
func viewIDs(ids []runner.IDMap) []unionfs.IDRange {
	var list []unionfs.IDRange
	for _, m := range ids {
		list = append(list, unionfs.IDRange{OnDisk: uint32(m.Inside), Shown: uint32(m.Outside), Length: uint32(m.Size)})
	}
	return list
}

// Owner is the owner in a view of what is to be owned so inside; -1 is nobody.
func (b *Sandbox) Owner(uid, gid int) (int, int) {
	if len(b.UIDs) == 0 {
		return uid, gid
	}
	return runner.OutsideID(b.UIDs, uid), runner.OutsideID(b.GIDs, gid)
}
