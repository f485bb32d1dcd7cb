package seccomp

import "golang.org/x/sys/unix"

// success is the verdict on a call that is not made: error 0, so it seems to have been.
const success = unix.SECCOMP_RET_ERRNO

// Pretend is a filter to load beside that of a profile, for containers with a single
// id, 0: a change of owner, user or groups to another one, and making a device,
// succeed without effect, which is what package managers need. What can be done, as a
// change to root, is done. It knows the calls of the binary's own architecture.
func Pretend() Program {
	a := arches()[0]
	numbers := a.numbers()
	code := Program{load(offNumber)}
	add := func(name string, what Program) {
		if number, has := numbers[name]; has { // ARM has not all of them
			code = append(code, branch(unix.BPF_JEQ, number, what)...)
		}
	}
	for name, ids := range pretended() {
		add(name, unlessRoot(ids))
	}
	add("setgroups", Program{ret(success)})
	add("mknod", unlessFile(1))
	add("mknodat", unlessFile(2))
	code = append(code, ret(unix.SECCOMP_RET_ALLOW))
	return append(append(Program{load(offArch)}, branch(unix.BPF_JEQ, a.audit, code)...), ret(unix.SECCOMP_RET_ALLOW))
}

// pretended says which arguments of a call are ids.
func pretended() map[string][]uint32 {
	return map[string][]uint32{
		"chown": {1, 2}, "lchown": {1, 2}, "fchown": {1, 2}, "fchownat": {2, 3},
		"setuid": {0}, "setgid": {0}, "setreuid": {0, 1}, "setregid": {0, 1},
		"setresuid": {0, 1, 2}, "setresgid": {0, 1, 2},
	}
}

// unlessRoot pretends if one of the arguments is neither root nor -1, which is "as it is".
func unlessRoot(ids []uint32) Program {
	var code Program
	for _, index := range ids {
		code = append(code, load(offArgs+8*index),
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 2, K: 0},
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: ^uint32(0)},
			ret(success))
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
