package runner

import (
	"slices"

	"golang.org/x/sys/unix"
)

// ids are the user ids of a process, or its group ids: credentials(7).
type ids struct{ real, effective, saved, fs uint32 }

// keep is the argument that leaves an id as it is.
const keep = ^uint32(0)

// change makes the ids of a call of the set*uid or set*gid family, by the rules of
// kernel/sys.c. privileged is whether the process has CAP_SETUID, or CAP_SETGID.
func (i ids) change(call string, args [3]uint32, privileged bool) (ids, unix.Errno) {
	switch call {
	case "setuid", "setgid":
		return i.set(args[0], privileged)
	case "setreuid", "setregid":
		return i.setRealEffective(args[0], args[1], privileged)
	case "setresuid", "setresgid":
		return i.setAll(args, privileged)
	}
	return i.setFS(args[0], privileged), 0 // fails by changing nothing
}

func (i ids) set(id uint32, privileged bool) (ids, unix.Errno) {
	switch {
	case id == keep:
		return i, unix.EINVAL
	case privileged:
		return ids{id, id, id, id}, 0
	case id == i.real || id == i.saved:
		i.effective, i.fs = id, id
		return i, 0
	}
	return i, unix.EPERM
}

func (i ids) setRealEffective(real, effective uint32, privileged bool) (ids, unix.Errno) {
	may := privileged ||
		(real == keep || real == i.real || real == i.effective) &&
			(effective == keep || effective == i.real || effective == i.effective || effective == i.saved)
	if !may {
		return i, unix.EPERM
	}
	old := i
	if real != keep {
		i.real = real
	}
	if effective != keep {
		i.effective = effective
	}
	if real != keep || effective != keep && effective != old.real {
		i.saved = i.effective
	}
	i.fs = i.effective
	return i, 0
}

func (i ids) setAll(args [3]uint32, privileged bool) (ids, unix.Errno) {
	for _, id := range args {
		if !privileged && id != keep && id != i.real && id != i.effective && id != i.saved {
			return i, unix.EPERM
		}
	}
	old := i
	for k, place := range []*uint32{&i.real, &i.effective, &i.saved} {
		if args[k] != keep {
			*place = args[k]
		}
	}
	if i != old || args[1] != keep { // Linux 6.0 and later leave that of setfsuid then
		i.fs = i.effective
	}
	return i, 0
}

func (i ids) setFS(id uint32, privileged bool) ids {
	if privileged || slices.Contains([]uint32{i.real, i.effective, i.saved, i.fs}, id) {
		if id != keep {
			i.fs = id
		}
	}
	return i
}

// creds are who a process of a container with a single id takes itself for. The zero
// value is root, as which it was born.
type creds struct {
	user, group ids
	groups      string // the supplementary ones, four bytes each; "" is none
	told        bool   // they were set by setgroups(2)
	keeps       bool   // its capabilities when it is not root any more (PR_SET_KEEPCAPS)
}

// mayBecome tells whether the capabilities of the kernel count, by which anybody can be
// had.
func (c *creds) mayBecome() bool { return c.user.effective == 0 || c.keeps }

// mayChown tells whether chown(2) to these ids is allowed, which it always is to root.
func (c *creds) mayChown(uid, gid uint32) bool {
	if c.user.fs == 0 {
		return true
	}
	return uid == keep && (gid == keep || gid == c.group.fs || c.isIn(gid))
}

func (c *creds) isIn(gid uint32) bool {
	for raw := c.groups; len(raw) >= 4; raw = raw[4:] {
		if nativeID(raw) == gid {
			return true
		}
	}
	return false
}

func nativeID(raw string) uint32 {
	return uint32(raw[0]) | uint32(raw[1])<<8 | uint32(raw[2])<<16 | uint32(raw[3])<<24 // all our architectures are little-endian
}

// A roll is the credentials that the processes of a container have, or had. Each process
// has its number in the roll as the soft limit RLIMIT_LOCKS, which Linux has had no use
// for since 2.4.25: the kernel hands it down to children and through execve(2) as it does
// true credentials, and anybody of the same user may set it from outside.
type roll struct {
	list   []creds // the first is root
	number map[creds]uint64
	room   int // bytes of groups that may still come
}

// The roll does not grow for a program that calls setgroups(2) again and again.
const (
	longestRoll = 1 << 14
	roomyRoll   = 4 << 20
	mostGroups  = 1 << 13 // in one call
)

// rollBase and a number is the limit. Nobody has set it by chance.
const rollBase = uint64(0x7661727665) << 20

func newRoll() *roll {
	return &roll{list: []creds{{}}, number: map[creds]uint64{{}: 0}, room: roomyRoll}
}

// enter returns the number of c; ok is false if the roll is full.
func (r *roll) enter(c creds) (n uint64, ok bool) {
	if n, ok = r.number[c]; ok {
		return n, true
	}
	if len(r.list) >= longestRoll || len(c.groups) > r.room {
		return 0, false
	}
	n = uint64(len(r.list))
	r.list, r.number[c], r.room = append(r.list, c), n, r.room-len(c.groups)
	return n, true
}

// credsOf reads who the process of a thread takes itself for; root, if it has said nothing.
func (r *roll) credsOf(pid int) (creds, error) {
	var limit unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_LOCKS, nil, &limit); err != nil {
		return creds{}, err
	}
	if n := limit.Cur - rollBase; n < uint64(len(r.list)) {
		return r.list[n], nil
	}
	return creds{}, nil
}

// note has the process of a thread take itself for c.
func (r *roll) note(pid int, c creds) unix.Errno {
	n, ok := r.enter(c)
	if !ok {
		return unix.EAGAIN
	}
	var limit unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_LOCKS, nil, &limit); err != nil {
		return unix.EPERM
	}
	limit.Cur = rollBase + n
	if n == 0 || limit.Cur > limit.Max { // where the user is limited nothing can be noted
		limit.Cur = limit.Max
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_LOCKS, &limit, nil); err != nil {
		return unix.EPERM
	}
	return 0
}
