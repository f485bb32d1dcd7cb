package seccomp

import (
	_ "embed" // the profile
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

//go:embed default.json
var defaultJSON string

// Profile is docker's format of a profile, as `--security-opt seccomp=FILE` takes it.
type Profile struct {
	DefaultAction   string  `json:"defaultAction"`
	DefaultErrnoRet *uint32 `json:"defaultErrnoRet"`
	Syscalls        []rule  `json:"syscalls"`
}

type rule struct {
	Name     string     `json:"name"` // of an old format, beside Names
	Names    []string   `json:"names"`
	Action   string     `json:"action"`
	ErrnoRet *uint32    `json:"errnoRet"`
	Args     []argument `json:"args"`
	Includes condition  `json:"includes"`
	Excludes condition  `json:"excludes"`
}

// condition is what has to be so (all of it, in includes) for a rule to hold, or not
// (any of it, in excludes).
type condition struct {
	Caps   []string `json:"caps"`
	Arches []string `json:"arches"`
}

type argument struct {
	Index    uint   `json:"index"`
	Value    uint64 `json:"value"`
	ValueTwo uint64 `json:"valueTwo"`
	Op       string `json:"op"`
}

// Parse reads a profile.
func Parse(data []byte) (*Profile, error) {
	var p Profile
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("decoding seccomp profile failed: %w", err)
	}
	if p.DefaultAction == "" {
		return nil, errors.New("decoding seccomp profile failed: it has no defaultAction")
	}
	return &p, nil
}

// holds tells whether the rule counts for a container with these capabilities.
func (r *rule) holds(caps []string, native []string) bool {
	for _, c := range r.Includes.Caps {
		if !slices.Contains(caps, c) {
			return false
		}
	}
	isNative := func(arch string) bool { return slices.Contains(native, arch) }
	if len(r.Includes.Arches) > 0 && !slices.ContainsFunc(r.Includes.Arches, isNative) {
		return false
	}
	return !slices.ContainsFunc(r.Excludes.Caps, func(c string) bool { return slices.Contains(caps, c) }) &&
		!slices.ContainsFunc(r.Excludes.Arches, isNative)
}

// verdict is what the kernel does, SECCOMP_RET_….
func verdict(action string, errno *uint32) (uint32, error) {
	data := uint32(unix.EPERM)
	if errno != nil {
		data = min(*errno, 0xfff)
	}
	switch action {
	case "SCMP_ACT_ALLOW":
		return unix.SECCOMP_RET_ALLOW, nil
	case "SCMP_ACT_ERRNO":
		return unix.SECCOMP_RET_ERRNO | data, nil
	case "SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD":
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case "SCMP_ACT_KILL_PROCESS":
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case "SCMP_ACT_TRAP":
		return unix.SECCOMP_RET_TRAP, nil
	case "SCMP_ACT_TRACE":
		return unix.SECCOMP_RET_TRACE | data, nil
	case "SCMP_ACT_LOG":
		return unix.SECCOMP_RET_LOG, nil
	}
	return 0, fmt.Errorf("seccomp profile: the action %q is not supported", action)
}

// match is one way for a rule to apply: all its arguments compare so. None is any
// call.
type match struct {
	args   []argument
	action uint32
}

// calls is the table of one architecture: what is done with each number.
type calls struct {
	matches  map[uint32][]match
	standard uint32
	last     uint32 // the highest number that the profile names
}

// table works out what the profile says for one architecture, whose numbers by name
// are given.
func (p *Profile) table(caps, native []string, numbers map[string]uint32) (*calls, error) {
	standard, err := verdict(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	c := &calls{matches: map[uint32][]match{}, standard: standard}
	for _, r := range p.Syscalls {
		for _, name := range append(r.Names, r.Name) {
			number, known := numbers[name]
			if !known {
				continue
			}
			c.last = max(c.last, number)
			if !r.holds(caps, native) {
				continue
			}
			if err := c.add(number, r); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// add adds a rule. Two comparisons of one argument are two rules, one of which has to
// hold, as the OCI runtimes read them.
func (c *calls) add(number uint32, r rule) error {
	action, err := verdict(r.Action, r.ErrnoRet)
	if err != nil {
		return err
	}
	seen := map[uint]bool{}
	twice := false
	for _, a := range r.Args {
		if a.Index > 5 {
			return fmt.Errorf("seccomp profile: %s has no argument %d", strings.Join(r.Names, ", "), a.Index)
		}
		twice = twice || seen[a.Index]
		seen[a.Index] = true
	}
	if !twice {
		c.matches[number] = append(c.matches[number], match{r.Args, action})
		return nil
	}
	for _, a := range r.Args {
		c.matches[number] = append(c.matches[number], match{[]argument{a}, action})
	}
	return nil
}
