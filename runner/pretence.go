package runner

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/seccomp"
)

// A Pretence answers system calls about users and owners for the programs of a container
// with a single id, whose kernel knows root alone. A process that changes its user takes
// itself, and is taken by what it starts, for that user from then on, though the kernel
// goes on treating it as root; a file that is given to a user is his in what the view keeps
// of it, and so programs are told, though the kernel takes it for root's. Who may not do such a thing as the user he takes
// himself for, or for want of a capability, is told so.
//
// The zero value is not usable: [NewPretence] makes one, for all programs of a container,
// whose Config names it. Its methods may be called from several goroutines.
type Pretence struct {
	view string
	// kernel: the view is the kernel's overlayfs, and keeps no owners and modes by itself.
	kernel bool
	stage  *os.File
	names  func() map[int32]string // of the calls that are asked about, by number
	stats  func() map[int32]string // of those of the family of stat
	pidns  func() string           // the one that we are in
	used   atomic.Bool             // somebody is not root

	mu   sync.Mutex // guards roll
	roll *roll

	teller teller

	desk  sync.Mutex // guards clerk, and is held while that is on an errand
	clerk *clerk     // nil until it is needed
}

// NewPretence makes a pretence for the programs that have the view as their root. Close has
// to be called when all of them have ended. stage is as in Config.
func NewPretence(view string, stage *os.File) *Pretence {
	return &Pretence{view: view, stage: stage, roll: newRoll(), teller: teller{view: view, stage: stage},
		names: sync.OnceValue(seccomp.Names), stats: sync.OnceValue(statCalls),
		pidns: sync.OnceValue(ownPidns)}
}

// KeepAttributes says that the view is the kernel's overlayfs: then the attribute that has
// owners and modes in the place of the files' own is kept here. It comes before the first
// program.
func (p *Pretence) KeepAttributes() { p.kernel = true }

// Close lets go of what was needed.
func (p *Pretence) Close() error {
	p.desk.Lock()
	defer p.desk.Unlock()
	return errors.Join(p.teller.close(), p.dismissLocked())
}

// dismissLocked ends the clerk, if there is one.
// Preconditions: p.desk is held.
func (p *Pretence) dismissLocked() error {
	if p.clerk == nil {
		return nil
	}
	err := p.clerk.close()
	p.clerk = nil
	return err
}

// Owner tells whose the files are that a thread makes.
func (p *Pretence) Owner(pid uint32) (uid, gid uint32) {
	if !p.used.Load() {
		return 0, 0
	}
	c := p.credsOf(int(pid))
	return c.user.fs, c.group.fs
}

// introduce notes who a process takes itself for that is about to begin: its user, its group
// and its groups, four bytes each.
func (p *Pretence) introduce(pid int, who string) error {
	if len(who) < 8 {
		return errors.New("the container's init stage names no user")
	}
	uid, gid := nativeID(who), nativeID(who[4:])
	c := creds{user: ids{uid, uid, uid, uid}, group: ids{gid, gid, gid, gid}, groups: who[8:], told: true}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used.Store(true)
	errno := p.roll.note(pid, c)
	if noted, err := p.roll.credsOf(pid); errno == 0 && (err != nil || noted != c) {
		errno = unix.EPERM // the hard limit RLIMIT_LOCKS is not there for a number
	}
	if errno != 0 {
		return fmt.Errorf("the user %d can not be had with a single id: note who it is: %w", uid, errno)
	}
	return nil
}

// credsOf is root for a thread that has ended.
func (p *Pretence) credsOf(pid int) creds {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.roll.credsOf(pid)
	if err != nil {
		return creds{}
	}
	return c
}

// answer answers the questions of one program and all that it starts, to their end.
func (p *Pretence) answer(passed *os.File) {
	l, err := seccomp.NewListener(passed)
	if err != nil {
		fmt.Fprintln(os.Stderr, "varve:", err) // calls fail with ENOSYS
		return
	}
	defer func() { _ = l.Close() }() // nobody asks any more
	queue := &queue{p: p, listener: l}
	for {
		q, err := l.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "varve:", err)
			return
		}
		if err = p.take(l, &q, queue); err != nil {
			fmt.Fprintln(os.Stderr, "varve:", err)
		}
	}
}

// take answers a question, or queues what needs the clerk.
func (p *Pretence) take(l *seccomp.Listener, q *seccomp.Question, later *queue) error {
	call := p.names()[q.Call]
	if !p.used.Load() && isQuery(call) {
		return l.Pass(q)
	}
	switch call {
	case "getuid", "geteuid", "getgid", "getegid":
		return p.tell(l, q, call)
	case "setuid", "setreuid", "setresuid", "setfsuid", "setgid", "setregid", "setresgid", "setfsgid":
		return p.become(l, q, call)
	case "prctl":
		return p.keepCapabilities(l, q)
	}
	later.add(*q)
	return nil
}

func isQuery(call string) bool { return call[:3] == "get" }

// tell answers who a process is.
func (p *Pretence) tell(l *seccomp.Listener, q *seccomp.Question, call string) error {
	c := p.credsOf(int(q.PID))
	if c == (creds{}) {
		return l.Pass(q)
	}
	return l.Answer(q, int64(map[string]uint32{
		"getuid": c.user.real, "geteuid": c.user.effective, "getgid": c.group.real, "getegid": c.group.effective}[call]), 0)
}

// become makes a process somebody else.
func (p *Pretence) become(l *seccomp.Listener, q *seccomp.Question, call string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.roll.credsOf(int(q.PID))
	if err != nil {
		return l.Answer(q, 0, unix.EPERM)
	}
	args := [3]uint32{uint32(q.Args[0]), uint32(q.Args[1]), uint32(q.Args[2])}
	if c == (creds{}) && isRoot(call, args) { // the kernel can do it
		return l.Pass(q)
	}
	set, capability := &c.user, unix.CAP_SETUID
	if call[len(call)-3:] == "gid" {
		set, capability = &c.group, unix.CAP_SETGID
	}
	privileged := c.mayBecome() && hasCapability(int(q.PID), capability)
	value := int64(0)
	if call == "setfsuid" || call == "setfsgid" {
		value = int64(set.fs)
	}
	changed, errno := set.change(call, args, privileged)
	if errno == 0 && changed != *set {
		*set = changed
		p.used.Store(true)
		errno = p.roll.note(int(q.PID), c)
	}
	return l.Answer(q, value, errno)
}

// keepCapabilities notes PR_SET_KEEPCAPS, which the kernel does itself, too.
func (p *Pretence) keepCapabilities(l *seccomp.Listener, q *seccomp.Question) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.roll.credsOf(int(q.PID))
	if keeps := q.Args[1] == 1; err == nil && c.keeps != keeps {
		c.keeps = keeps
		p.used.Store(true)
		if errno := p.roll.note(int(q.PID), c); errno != 0 {
			return l.Answer(q, 0, errno)
		}
	}
	return l.Pass(q)
}

// isRoot tells whether a call names root and nobody else.
func isRoot(call string, args [3]uint32) bool {
	n := 1
	switch call {
	case "setreuid", "setregid":
		n = 2
	case "setresuid", "setresgid":
		n = 3
	}
	for _, id := range args[:n] {
		if id != 0 && id != keep {
			return false
		}
	}
	return true
}

// hasCapability tells whether a thread may use a capability.
func hasCapability(pid, capability int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3, Pid: int32(pid)}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[capability/32].Effective&(1<<(capability%32)) != 0
}

// A queue has the questions that the clerk is needed for, in their order. While it has
// some a goroutine works at it.
type queue struct {
	p        *Pretence
	listener *seccomp.Listener

	mu      sync.Mutex // guards the two below
	waiting []seccomp.Question
	busy    bool
}

func (q *queue) add(question seccomp.Question) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, question)
	if !q.busy {
		q.busy = true
		go q.work()
	}
}

func (q *queue) next() (question seccomp.Question, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.busy, q.waiting = false, nil
		return question, false
	}
	question, q.waiting = q.waiting[0], q.waiting[1:]
	return question, true
}

func (q *queue) work() {
	for question, ok := q.next(); ok; question, ok = q.next() {
		if err := q.p.attend(q.listener, &question); err != nil && !errors.Is(err, os.ErrClosed) {
			fmt.Fprintln(os.Stderr, "varve:", err)
		}
	}
}

// attend answers a question with the clerk's help.
func (p *Pretence) attend(l *seccomp.Listener, q *seccomp.Question) error {
	v := visit{p, l, q}
	value, err := v.attend(p.names()[q.Call])
	if errors.Is(err, errPass) {
		return l.Pass(q)
	}
	errno := unix.Errno(0)
	if err != nil && !errors.As(err, &errno) {
		return errors.Join(err, l.Answer(q, 0, unix.EIO))
	}
	return l.Answer(q, value, errno)
}

// errPass says that the kernel may make the call.
var errPass = errors.New("the kernel does it")

// visit is a question that is being answered.
type visit struct {
	p        *Pretence
	listener *seccomp.Listener
	q        *seccomp.Question
}

func (v *visit) attend(call string) (value int64, err error) {
	a := v.q.Args
	switch call {
	case "getresuid", "getresgid":
		return 0, v.tellAll(call)
	case "getgroups":
		return v.tellGroups()
	case "setgroups":
		return 0, v.setGroups()
	case "chown":
		return 0, v.chown(errand{Dir: unix.AT_FDCWD, Address: a[0], UID: uint32(a[1]), GID: uint32(a[2])})
	case "lchown":
		return 0, v.chown(errand{Dir: unix.AT_FDCWD, Address: a[0], UID: uint32(a[1]), GID: uint32(a[2]), Flags: unix.AT_SYMLINK_NOFOLLOW})
	case "fchown":
		return 0, v.chown(errand{Dir: int32(a[0]), Descriptor: 1, UID: uint32(a[1]), GID: uint32(a[2])})
	case "chmod":
		return 0, v.chmod(errand{Dir: unix.AT_FDCWD, Address: a[0], Mode: uint32(a[1])})
	case "fchmod":
		return 0, v.chmod(errand{Dir: int32(a[0]), Descriptor: 1, Mode: uint32(a[1])})
	case "fchmodat":
		return 0, v.chmod(errand{Dir: int32(a[0]), Address: a[1], Mode: uint32(a[2])})
	case "fchmodat2":
		return 0, v.chmod(errand{Dir: int32(a[0]), Address: a[1], Mode: uint32(a[2]), Flags: uint32(a[3])})
	}
	return 0, v.chown(errand{Dir: int32(a[0]), Address: a[1], UID: uint32(a[2]), GID: uint32(a[3]), Flags: uint32(a[4])})
}

// run has the clerk do an errand for who asks; another one, if that has been killed for
// want of memory.
func (v *visit) run(e errand, data []byte) (got []byte, err error) {
	p := v.p
	p.desk.Lock()
	defer p.desk.Unlock()
	e.PID, e.ID = v.q.PID, v.q.ID
	for range 2 {
		if p.clerk == nil {
			if p.clerk, err = newClerk(p.view, p.stage); err != nil {
				return nil, err
			}
		}
		var errno unix.Errno
		if got, err = p.clerk.run(e, data, v.listener); err == nil || errors.As(err, &errno) {
			return got, err
		}
		err = errors.Join(err, p.dismissLocked())
	}
	return nil, err
}

// tellAll answers getresuid and getresgid.
func (v *visit) tellAll(call string) error {
	c := v.p.credsOf(int(v.q.PID))
	if c == (creds{}) {
		return errPass
	}
	i := c.user
	if call == "getresgid" {
		i = c.group
	}
	for k, id := range []uint32{i.real, i.effective, i.saved} {
		raw := binary.LittleEndian.AppendUint32(nil, id)
		if _, err := v.run(errand{Do: doWrite, Address: v.q.Args[k]}, raw); err != nil {
			return err
		}
	}
	return nil
}

func (v *visit) tellGroups() (int64, error) {
	c := v.p.credsOf(int(v.q.PID))
	if !c.told {
		return 0, errPass
	}
	count, size := len(c.groups)/4, int32(v.q.Args[0])
	switch {
	case size < 0 || size > 0 && int(size) < count:
		return 0, unix.EINVAL
	case size == 0:
		return int64(count), nil
	}
	_, err := v.run(errand{Do: doWrite, Address: v.q.Args[1]}, []byte(c.groups))
	return int64(count), err
}

func (v *visit) setGroups() error {
	p, pid, count := v.p, int(v.q.PID), int32(v.q.Args[0])
	if c := p.credsOf(pid); !c.mayBecome() || !hasCapability(pid, unix.CAP_SETGID) {
		return unix.EPERM
	}
	if count < 0 || count > mostGroups {
		return unix.EINVAL
	}
	var groups []byte
	if count > 0 {
		var err error
		if groups, err = v.run(errand{Do: doRead, Address: v.q.Args[1], Length: 4 * uint32(count)}, nil); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.roll.credsOf(pid)
	if err != nil {
		return unix.EPERM
	}
	c.groups, c.told = string(groups), true
	p.used.Store(true)
	if errno := p.roll.note(pid, c); errno != 0 {
		return errno
	}
	return nil
}

// chmod has the kernel make the call once the attribute has the mode.
func (v *visit) chmod(e errand) error {
	if e.Flags&^(unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH) != 0 {
		return unix.EINVAL
	}
	e.Do, e.UID, e.GID = doChmod, keep, keep
	if _, err := v.run(e, nil); err != nil {
		return err
	}
	return errPass
}

func (v *visit) chown(e errand) error {
	if e.Flags&^(unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH) != 0 {
		return unix.EINVAL
	}
	c := v.p.credsOf(int(v.q.PID))
	if !c.mayChown(e.UID, e.GID) || !hasCapability(int(v.q.PID), unix.CAP_CHOWN) {
		return unix.EPERM
	}
	if e.Do = doChown; v.p.kernel {
		e.Do = doKeepOwner
	}
	_, err := v.run(e, nil)
	return err
}
