package seccomp

import (
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// success is the verdict on a call that is not made: error 0, so it seems to have been.
const success = unix.SECCOMP_RET_ERRNO

// Pretend is a filter to load beside that of a profile, for containers with a single
// id, 0: a change of owner, user or groups to another one, and making a device,
// succeed without effect, which is what package managers need. What can be done, as a
// change to root, is done. It knows the calls of the binary's own architecture.
func Pretend() Program {
	native := newRules()
	for name, ids := range owning() {
		native.add(name, unlessRoot(ids, success))
	}
	for name, ids := range becoming() {
		native.add(name, unlessRoot(ids, success))
	}
	native.add("setgroups", Program{ret(success)})
	native.addDevices()
	return native.program()
}

// Ask is the filter in the place of [Pretend] where somebody listens (see [Listener]): he
// is asked about changes of owners to others than root, and about all that has to do with
// the users and groups of a process, PR_SET_KEEPCAPS among it; with attributes, about all
// changes of owners and modes of files. To make a device succeeds without effect.
func Ask(attributes bool) Program {
	native := newRules()
	for name, ids := range owning() {
		verdict := unlessRoot(ids, unix.SECCOMP_RET_USER_NOTIF)
		if attributes {
			verdict = Program{ret(unix.SECCOMP_RET_USER_NOTIF)}
		}
		native.add(name, verdict)
	}
	for _, name := range Asked() {
		native.add(name, Program{ret(unix.SECCOMP_RET_USER_NOTIF)})
	}
	if attributes {
		for _, name := range moding() {
			native.add(name, Program{ret(unix.SECCOMP_RET_USER_NOTIF)})
		}
	}
	native.add("prctl", Program{load(offArgs),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.PR_SET_KEEPCAPS},
		ret(unix.SECCOMP_RET_USER_NOTIF), ret(unix.SECCOMP_RET_ALLOW)})
	native.addDevices()
	return native.program()
}

// Asked are the names of the calls about which the listener of [Ask] is asked always.
func Asked() []string {
	list := []string{"getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getgroups", "setgroups", "setfsuid", "setfsgid"}
	for name := range becoming() {
		list = append(list, name)
	}
	return list
}

// owning says which arguments of a call for the owner of a file are ids.
func owning() map[string][]uint32 {
	return map[string][]uint32{"chown": {1, 2}, "lchown": {1, 2}, "fchown": {1, 2}, "fchownat": {2, 3}}
}

// moding are the calls for the mode of a file.
func moding() []string { return []string{"chmod", "fchmod", "fchmodat", "fchmodat2"} }

// becoming says which arguments of a call for the user of a process are ids.
func becoming() map[string][]uint32 {
	return map[string][]uint32{
		"setuid": {0}, "setgid": {0}, "setreuid": {0, 1}, "setregid": {0, 1},
		"setresuid": {0, 1, 2}, "setresgid": {0, 1, 2},
	}
}

// Names are those of the calls of the binary's own architecture about which the listener
// of [Ask] is asked, by number.
func Names() map[int32]string {
	list := slices.Concat(Asked(), slices.Collect(maps.Keys(owning())), moding())
	return Numbered(append(list, "prctl")...)
}

// Numbered are the calls of these names by their number in the binary's own architecture,
// which may not have all of them.
func Numbered(names ...string) map[int32]string {
	numbers := arches()[0].numbers()
	list := map[int32]string{}
	for _, name := range names {
		if number, has := numbers[name]; has {
			list[int32(number)] = name
		}
	}
	return list
}

// rules are verdicts on calls of the binary's own architecture; all others are allowed.
type rules struct {
	arch    arch
	numbers map[string]uint32
	code    Program
}

func newRules() *rules {
	a := arches()[0]
	return &rules{a, a.numbers(), Program{load(offNumber)}}
}

// add has what decide about a call. ARM has not all of them.
func (r *rules) add(name string, what Program) {
	if number, has := r.numbers[name]; has {
		r.code = append(r.code, branch(unix.BPF_JEQ, number, what)...)
	}
}

func (r *rules) addDevices() {
	r.add("mknod", unlessFile(1))
	r.add("mknodat", unlessFile(2))
}

func (r *rules) program() Program {
	code := append(r.code, ret(unix.SECCOMP_RET_ALLOW))
	return append(append(Program{load(offArch)}, branch(unix.BPF_JEQ, r.arch.audit, code)...), ret(unix.SECCOMP_RET_ALLOW))
}

// unlessRoot gives a verdict if one of the arguments is neither root nor -1, which is "as
// it is".
func unlessRoot(ids []uint32, verdict uint32) Program {
	var code Program
	for _, index := range ids {
		code = append(code, load(offArgs+8*index),
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 2, K: 0},
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: ^uint32(0)},
			ret(verdict))
	}
	return append(code, ret(unix.SECCOMP_RET_ALLOW))
}

// unlessFile pretends if the mode in an argument is that of a device.
func unlessFile(mode uint32) Program {
	return Program{load(offArgs + 8*mode),
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: unix.S_IFMT},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 2, K: unix.S_IFCHR},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: unix.S_IFBLK},
		ret(unix.SECCOMP_RET_ALLOW), ret(success)}
}
