package seccomp

import (
	_ "embed"
	"encoding/json"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// call is struct seccomp_data.
type call struct {
	number, arch uint32
	args         [6]uint64
}

func (c call) word(offset uint32) uint32 {
	switch {
	case offset == offNumber:
		return c.number
	case offset == offArch:
		return c.arch
	}
	return uint32(c.args[(offset-offArgs)/8] >> (8 * ((offset - offArgs) % 8)))
}

// run does what the kernel does with the program.
func run(t *testing.T, p Program, c call) uint32 {
	t.Helper()
	a := uint32(0)
	for pc := 0; ; pc++ {
		i := p[pc]
		holds := false
		switch i.Code {
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = c.word(i.K)
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= i.K
			continue
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(i.K)
			continue
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			holds = a == i.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			holds = a >= i.K
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			holds = a > i.K
		default:
			t.Fatalf("instruction %d: unknown code %#x", pc, i.Code)
		}
		if holds {
			pc += int(i.Jt)
		} else {
			pc += int(i.Jf)
		}
	}
}

// says reads the profile itself, as its format is meant.
func says(t *testing.T, p *Profile, caps, native []string, numbers map[string]uint32, c call) uint32 {
	t.Helper()
	result, err := verdict(p.DefaultAction, p.DefaultErrnoRet)
	require.NoError(t, err)
	last, decided := uint32(0), false
	for _, r := range p.Syscalls {
		for _, name := range r.Names {
			n, known := numbers[name]
			if !known {
				continue
			}
			last = max(last, n)
			if n != c.number || decided || !r.holds(caps, native) {
				continue
			}
			all := true
			for _, a := range r.Args {
				all = all && compares(a, c.args[a.Index])
			}
			if all {
				result, err = verdict(r.Action, r.ErrnoRet)
				require.NoError(t, err)
				decided = true
			}
		}
	}
	if c.number > last {
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	return result
}

func compares(a argument, value uint64) bool {
	return map[string]bool{
		"SCMP_CMP_EQ": value == a.Value, "SCMP_CMP_NE": value != a.Value, "SCMP_CMP_LT": value < a.Value,
		"SCMP_CMP_LE": value <= a.Value, "SCMP_CMP_GT": value > a.Value, "SCMP_CMP_GE": value >= a.Value,
		"SCMP_CMP_MASKED_EQ": value&a.Value == a.ValueTwo,
	}[a.Op]
}

// The filter says what the profile says, for each number and arguments near those
// that are compared, whatever the capabilities.
func TestProgramSaysWhatTheProfileSays(t *testing.T) {
	p, err := Parse([]byte(defaultJSON))
	require.NoError(t, err)
	near := []uint64{0, 1, 8, 37, 38, 39, 40, 41, 0x20008, 0xffffffff, 1 << 32, 1<<32 | 39, 0x7e020000, 0x10000000, 0x01000000, ^uint64(0)}
	for _, caps := range [][]string{standardCaps(), nil, {"CAP_SYS_ADMIN"}, {"CAP_SYS_PTRACE", "CAP_BPF"}} {
		code, err := p.Compile(caps)
		require.NoError(t, err)
		for _, a := range arches() {
			tables := map[uint32]map[string]uint32{0: a.numbers()}
			if a.x32 {
				tables[x32Bit] = x32Numbers(a.numbers())
			}
			for base, numbers := range tables {
				for n := base; n < base+600; n++ {
					c := call{number: n, arch: a.audit}
					for range 12 {
						for i := range c.args {
							c.args[i] = near[rand.IntN(len(near))]
						}
						require.Equal(t, says(t, p, caps, nativeNames(), numbers, c), run(t, code, c), "%+v %v", c, caps)
					}
				}
			}
		}
		require.Equal(t, unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM), run(t, code, call{arch: 12345}))
	}
}

// Every comparison, against values on both sides in both halves.
func TestComparisons(t *testing.T) {
	for _, op := range strings.Fields("EQ NE LT LE GT GE MASKED_EQ") {
		for _, value := range []uint64{0, 5, 1 << 32, 5<<32 | 5, ^uint64(0)} {
			a := argument{Index: 1, Value: value, ValueTwo: value & 0xf0000000f, Op: "SCMP_CMP_" + op}
			p := &Profile{DefaultAction: "SCMP_ACT_ERRNO", Syscalls: []rule{{Names: []string{"read"}, Action: "SCMP_ACT_ALLOW",
				Args: []argument{a, {Index: 2, Value: 7, Op: "SCMP_CMP_EQ"}}}}}
			code, err := p.Compile(nil)
			require.NoError(t, err)
			for _, x := range []uint64{0, 4, 5, 6, 1 << 32, 1<<32 - 1, 4<<32 | 9, 5<<32 | 4, 5<<32 | 5, 5<<32 | 6, 6 << 32, ^uint64(0)} {
				for _, other := range []uint64{7, 8} {
					c := call{number: unix.SYS_READ, arch: arches()[0].audit, args: [6]uint64{1: x, 2: other}}
					allowed := run(t, code, c) == unix.SECCOMP_RET_ALLOW
					require.Equal(t, compares(a, x) && other == 7, allowed, "%#x %s %#x", x, op, value)
				}
			}
		}
	}
}

// The programs that are compiled beforehand are those of the profile, for both
// architectures. UPDATE_SECCOMP writes them.
func TestCompiledBeforehand(t *testing.T) {
	p, err := Parse([]byte(defaultJSON))
	require.NoError(t, err)
	file := func(name string) func() map[string]uint32 {
		return func() map[string]uint32 {
			text, err := os.ReadFile(name)
			require.NoError(t, err)
			return parseNumbers(string(text))
		}
	}
	for goarch, c := range map[string]struct {
		native []string
		arches []arch
	}{
		"amd64": {[]string{"amd64", "x86", "x32"}, []arch{
			{unix.AUDIT_ARCH_X86_64, file("calls_x86_64.txt"), true}, {unix.AUDIT_ARCH_I386, file("calls_x86.txt"), false}}},
		"arm64": {[]string{"arm64", "arm"}, []arch{
			{unix.AUDIT_ARCH_AARCH64, file("calls_aarch64.txt"), false}, {unix.AUDIT_ARCH_ARM, file("calls_arm.txt"), false}}},
	} {
		code, err := p.compile(standardCaps(), c.native, c.arches)
		require.NoError(t, err)
		name := "default_" + goarch + ".bpf"
		if os.Getenv("UPDATE_SECCOMP") != "" {
			require.NoError(t, os.WriteFile(name, code.Encode(), 0o644))
		}
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Equal(t, code.Encode(), data, "run UPDATE_SECCOMP=1 go test -run %s", t.Name())
		again, err := Decode(data)
		require.NoError(t, err)
		require.Equal(t, code, again)
		if goarch == runtime.GOARCH {
			own, err := p.Compile(standardCaps())
			require.NoError(t, err)
			require.Equal(t, own, code)
		}
	}
}

// What is compiled beforehand is used for exactly the capabilities that give the same.
func TestStandardCapabilities(t *testing.T) {
	var p Profile
	require.NoError(t, json.Unmarshal([]byte(defaultJSON), &p))
	for _, r := range p.Syscalls {
		for _, name := range append(r.Includes.Caps, r.Excludes.Caps...) {
			if name == "CAP_SYS_CHROOT" {
				require.False(t, isStandard(nil))
				continue
			}
			require.False(t, isStandard(append(standardCaps(), name)), name)
		}
	}
	require.True(t, isStandard(append(standardCaps(), "CAP_CHOWN")))
}

func TestBadProfiles(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "decoding seccomp profile failed",
		"{}":                             "no defaultAction",
		`{"defaultAction":"SCMP_ACT_X"}`: `action "SCMP_ACT_X" is not supported`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_NOTIFY"}]}`:                     `"SCMP_ACT_NOTIFY" is not supported`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":9}]}]}`: "has no argument 9",
	} {
		p, err := Parse([]byte(text))
		if err == nil {
			_, err = p.Compile(nil)
		}
		require.ErrorContains(t, err, want, text)
	}
}

func BenchmarkDefault(b *testing.B) {
	for name, caps := range map[string][]string{"beforehand": standardCaps(), "from JSON": {"CAP_SYS_ADMIN"}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_, err := Default(caps)
				require.NoError(b, err)
			}
		})
	}
}

// Only what can not be done is pretended.
func TestPretend(t *testing.T) {
	const done = unix.SECCOMP_RET_ALLOW
	same := ^uint64(0)
	for _, c := range []struct {
		number uint32
		args   [6]uint64
		want   uint32
	}{
		{unix.SYS_FCHOWNAT, [6]uint64{2: 0, 3: 0}, done},
		{unix.SYS_FCHOWNAT, [6]uint64{2: 0, 3: 42}, success},
		{unix.SYS_FCHOWNAT, [6]uint64{2: 42, 3: same}, success},
		{unix.SYS_FCHOWNAT, [6]uint64{2: same, 3: 1<<32 - 1}, done},
		{unix.SYS_FCHOWN, [6]uint64{0: 7, 1: 0, 2: 0}, done},
		{unix.SYS_FCHOWN, [6]uint64{0: 7, 1: 1, 2: 0}, success},
		{unix.SYS_SETRESUID, [6]uint64{0: 0, 1: 100, 2: 0}, success},
		{unix.SYS_SETRESUID, [6]uint64{}, done},
		{unix.SYS_SETGROUPS, [6]uint64{}, success},
		{unix.SYS_MKNODAT, [6]uint64{2: unix.S_IFCHR | 0o600}, success},
		{unix.SYS_MKNODAT, [6]uint64{2: unix.S_IFBLK}, success},
		{unix.SYS_MKNODAT, [6]uint64{2: unix.S_IFIFO | 0o600}, done},
		{unix.SYS_READ, [6]uint64{1, 2, 3}, done},
	} {
		require.Equal(t, c.want, run(t, Pretend(), call{c.number, arches()[0].audit, c.args}), "%+v", c)
		require.EqualValues(t, done, run(t, Pretend(), call{c.number, 12345, c.args}))
	}
}

// TestAsk: what has to do with users is asked about, and changes of owners to others than root.
func TestAsk(t *testing.T) {
	const done, ask = unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_USER_NOTIF
	same := ^uint64(0)
	for _, c := range []struct {
		number uint32
		args   [6]uint64
		want   uint32
	}{
		{unix.SYS_FCHOWNAT, [6]uint64{2: 0, 3: 0}, done},
		{unix.SYS_FCHOWNAT, [6]uint64{2: 0, 3: 42}, ask},
		{unix.SYS_FCHOWNAT, [6]uint64{2: 42, 3: same}, ask},
		{unix.SYS_FCHOWNAT, [6]uint64{2: same, 3: 1<<32 - 1}, done},
		{unix.SYS_FCHOWN, [6]uint64{0: 7, 1: 0, 2: 0}, done},
		{unix.SYS_FCHOWN, [6]uint64{0: 7, 1: 1, 2: 0}, ask},
		{unix.SYS_SETRESUID, [6]uint64{0: 0, 1: 100, 2: 0}, ask},
		{unix.SYS_SETRESUID, [6]uint64{}, ask},
		{unix.SYS_GETEUID, [6]uint64{}, ask},
		{unix.SYS_SETGROUPS, [6]uint64{}, ask},
		{unix.SYS_SETFSUID, [6]uint64{}, ask},
		{unix.SYS_PRCTL, [6]uint64{unix.PR_SET_KEEPCAPS, 1}, ask},
		{unix.SYS_PRCTL, [6]uint64{unix.PR_SET_NAME, 1}, done},
		{unix.SYS_MKNODAT, [6]uint64{2: unix.S_IFCHR | 0o600}, success},
		{unix.SYS_MKNODAT, [6]uint64{2: unix.S_IFIFO | 0o600}, done},
		{unix.SYS_GETPID, [6]uint64{}, done},
	} {
		require.Equal(t, c.want, run(t, Ask(false), call{c.number, arches()[0].audit, c.args}), "%+v", c)
		require.EqualValues(t, done, run(t, Ask(false), call{c.number, 12345, c.args}))
		if c.want == ask {
			require.Contains(t, Names(), int32(c.number))
		}
	}
	chmod := call{unix.SYS_FCHMOD, arches()[0].audit, [6]uint64{}}
	require.EqualValues(t, done, run(t, Ask(false), chmod))
	require.EqualValues(t, ask, run(t, Ask(true), chmod))
	require.EqualValues(t, ask, run(t, Ask(true), call{unix.SYS_FCHOWN, arches()[0].audit, [6]uint64{}}))
}
