package seccomp

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Program is a filter for the kernel, classic BPF.
type Program []unix.SockFilter

// arch is a kind of system calls that a kernel takes.
type arch struct {
	audit   uint32 // AUDIT_ARCH_…, in seccomp_data
	numbers func() map[string]uint32
	x32     bool // the numbers of x32 are in the same space, from x32Bit on
}

const x32Bit = 0x40000000

// Offsets in struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

// maxProgram is BPF_MAXINSNS.
const maxProgram = 4096

// Compile makes the filter for a container with the capabilities ("CAP_…").
func (p *Profile) Compile(caps []string) (Program, error) {
	return p.compile(caps, nativeNames(), arches())
}

func (p *Profile) compile(caps, native []string, list []arch) (Program, error) {
	standard, err := verdict(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	code := Program{ret(standard)} // of architectures that are none of ours
	for _, a := range slices.Backward(list) {
		part, err := p.part(caps, native, a)
		if err != nil {
			return nil, err
		}
		code = append(branch(unix.BPF_JEQ, a.audit, part), code...)
	}
	code = append(Program{load(offArch)}, code...)
	if len(code) > maxProgram {
		return nil, fmt.Errorf("seccomp profile: it is too long: %d instructions, and the kernel takes %d", len(code), maxProgram)
	}
	return code, nil
}

// part is the code for one architecture.
func (p *Profile) part(caps, native []string, a arch) (Program, error) {
	numbers := a.numbers()
	table, err := p.table(caps, native, numbers)
	if err != nil {
		return nil, err
	}
	code := Program{load(offNumber)}
	if a.x32 {
		other, err := p.table(caps, native, x32Numbers(numbers))
		if err != nil {
			return nil, err
		}
		code = append(code, branch(unix.BPF_JGE, x32Bit, other.code())...)
	}
	return append(code, table.code()...), nil
}

// segment is numbers with the same code, from first up to the next segment.
type segment struct {
	first uint32
	code  Program
}

// code finds the number, which is loaded, by halving, and decides.
func (c *calls) code() Program {
	numbers := slices.Sorted(maps.Keys(c.matches))
	list := []segment{{0, Program{ret(c.standard)}}}
	put := func(first uint32, code Program) {
		if last := &list[len(list)-1]; last.first == first {
			last.code = code
		} else if !slices.Equal(last.code, code) {
			list = append(list, segment{first, code})
		}
	}
	for i, n := range numbers {
		if i > 0 && numbers[i-1]+1 != n {
			put(numbers[i-1]+1, Program{ret(c.standard)})
		}
		put(n, c.decide(c.matches[n]))
	}
	if len(numbers) > 0 {
		put(numbers[len(numbers)-1]+1, Program{ret(c.standard)})
	}
	switch c.standard & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG, unix.SECCOMP_RET_TRACE: // a list of what is refused
	default:
		put(c.last+1, Program{ret(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))})
	}
	return find(list)
}

func find(list []segment) Program {
	if len(list) == 1 {
		return list[0].code
	}
	half := len(list) / 2
	return append(branch(unix.BPF_JGE, list[half].first, find(list[half:])), find(list[:half])...)
}

// decide is the code for one number: the first rule with arguments that holds, then
// one without.
func (c *calls) decide(list []match) Program {
	otherwise := c.standard
	var code Program
	for _, m := range list {
		if len(m.args) == 0 {
			otherwise = m.action
		}
	}
	for _, m := range list {
		if len(m.args) > 0 && m.action != otherwise {
			code = append(code, m.code()...)
		}
	}
	return append(code, ret(otherwise))
}

// code returns the action if all arguments compare so, and else goes on behind it.
func (m match) code() Program {
	code := Program{ret(m.action)}
	for _, a := range slices.Backward(m.args) {
		code = append(a.code(len(code)), code...)
	}
	return code
}

// code compares one argument of 64 bits in two halves. If it holds it goes on behind
// itself, else it jumps over skip instructions more.
func (a argument) code(skip int) Program {
	low := load(offArgs + 8*uint32(a.Index)) // all our architectures are little-endian
	high := load(offArgs + 8*uint32(a.Index) + 4)
	vh, vl := uint32(a.Value>>32), uint32(a.Value)
	fail := func(left int) uint8 { return uint8(left + skip) } // skip is a few instructions
	jump := func(op uint16, k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, Jt: yes, Jf: no, K: k}
	}
	switch a.Op {
	case "SCMP_CMP_NE":
		return Program{high, jump(unix.BPF_JEQ, vh, 0, 2), low, jump(unix.BPF_JEQ, vl, fail(0), 0)}
	case "SCMP_CMP_LT", "SCMP_CMP_GE":
		yes, no := uint8(0), fail(0) // of ≥
		over, under := uint8(3), fail(2)
		if a.Op == "SCMP_CMP_LT" {
			yes, no = no, yes
			over, under = fail(3), 2
		}
		return Program{high, jump(unix.BPF_JGT, vh, over, 0), jump(unix.BPF_JEQ, vh, 0, under), low, jump(unix.BPF_JGE, vl, yes, no)}
	case "SCMP_CMP_GT", "SCMP_CMP_LE":
		yes, no := uint8(0), fail(0) // of >
		over, under := uint8(3), fail(2)
		if a.Op == "SCMP_CMP_LE" {
			yes, no = no, yes
			over, under = fail(3), 2
		}
		return Program{high, jump(unix.BPF_JGT, vh, over, 0), jump(unix.BPF_JEQ, vh, 0, under), low, jump(unix.BPF_JGT, vl, yes, no)}
	case "SCMP_CMP_MASKED_EQ":
		and := func(k uint32) unix.SockFilter {
			return unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: k}
		}
		return Program{high, and(vh), jump(unix.BPF_JEQ, uint32(a.ValueTwo>>32), 0, fail(3)),
			low, and(vl), jump(unix.BPF_JEQ, uint32(a.ValueTwo), 0, fail(0))}
	}
	return Program{high, jump(unix.BPF_JEQ, vh, 0, fail(2)), low, jump(unix.BPF_JEQ, vl, 0, fail(0))}
}

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func ret(k uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k}
}

// branch runs code, which has to end in a return, if the comparison op with k holds.
func branch(op uint16, k uint32, code Program) Program {
	test := unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, K: k}
	if len(code) <= 255 {
		test.Jf = uint8(len(code))
		return append(Program{test}, code...)
	}
	test.Jf = 1
	test.Jt = 0
	over := unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(code))}
	return append(Program{{Code: test.Code, K: k, Jt: 1, Jf: 0}, over}, code...)
}

// parseNumbers reads a table of lines "name number".
func parseNumbers(text string) map[string]uint32 {
	table := map[string]uint32{}
	for line := range strings.Lines(text) {
		name, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(number, 10, 32); err == nil {
			table[name] = uint32(n)
		}
	}
	return table
}

// x32Numbers are those of x86_64 with a bit set; some have numbers of their own
// (syscall_64.tbl of the kernel, "x32").
func x32Numbers(numbers map[string]uint32) map[string]uint32 {
	own := strings.Fields("rt_sigaction rt_sigreturn ioctl readv writev recvfrom sendmsg recvmsg execve ptrace " +
		"rt_sigpending rt_sigtimedwait rt_sigqueueinfo sigaltstack timer_create mq_notify kexec_load waitid " +
		"set_robust_list get_robust_list vmsplice move_pages preadv pwritev rt_tgsigqueueinfo recvmmsg sendmmsg " +
		"process_vm_readv process_vm_writev setsockopt getsockopt io_setup io_submit execveat preadv2 pwritev2")
	table := map[string]uint32{}
	for name, n := range numbers {
		table[name] = n | x32Bit
	}
	for i, name := range own {
		table[name] = uint32(512+i) | x32Bit
	}
	return table
}
