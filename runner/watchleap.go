package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A fork copies the page tables of who forks, and each page that he writes to is then
// copied once. The supervisor, which serves a view, has many, the watch few: an exec took 46 ms
// with forks of the supervisor, and 41 with those of the watch. Its processes are the supervisor's
// children (CLONE_PARENT).

// leapOrder is what the watch is asked for. With it come the descriptors of files that are
// open, then binary, target, and group if there is one.
type leapOrder struct {
	Args, Env      []string
	Open           []bool // of leap.files
	Group, Session bool
	Spaces, Fresh  int
	As             leapAs
}

// leapAnswer is what has come of it.
type leapAnswer struct {
	PIDs  []int // as leap.jump has them
	Errno unix.Errno
	Text  string // of another error
}

// errNoWatch: the watch was not to be asked. Nothing has happened.
var errNoWatch = errors.New("there is no watch")

// mostDoorFiles is how many descriptors an order has at most.
const mostDoorFiles = 64

// leap has the watch start the process. Several goroutines may call it.
func (w *watch) leap(l *leap) (int, error) {
	o := leapOrder{Args: l.args, Env: l.env, Group: l.group != nil, Session: l.session, Spaces: l.spaces, Fresh: l.fresh, As: l.as}
	var fds []int
	for _, f := range l.files {
		if o.Open = append(o.Open, f != nil); f != nil {
			fds = append(fds, int(f.Fd()))
		}
	}
	fds = append(fds, int(l.binary.Fd()), int(l.target.Fd()))
	if l.group != nil {
		fds = append(fds, int(l.group.Fd()))
	}
	raw, err := json.Marshal(o)
	if err != nil || len(fds) > mostDoorFiles {
		return 0, errNoWatch
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || unix.Sendmsg(int(w.door.Fd()), raw, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL) != nil {
		return 0, errNoWatch
	}
	raw = make([]byte, 4<<10)
	n, _, _, _, err := recvmsg(int(w.door.Fd()), raw, nil, 0)
	var a leapAnswer
	if err == nil {
		err = json.Unmarshal(raw[:n], &a)
	}
	if err != nil {
		return 0, fmt.Errorf("the container's watch has ended: %w", err)
	}
	switch {
	case a.Errno != 0:
		err = a.Errno
	case a.Text != "":
		err = errors.New(a.Text)
	}
	return settle(a.PIDs, err)
}

// attend does what the supervisor asks for; it is false when there is none any more.
func attend() bool {
	raw, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4*mostDoorFiles))
	n, oobn, _, _, err := recvmsg(doorFD, raw, oob, 0)
	if err != nil || n == 0 {
		return false
	}
	var a leapAnswer
	if a.PIDs, err = obey(raw[:n], oob[:oobn]); err != nil && !errors.As(err, &a.Errno) {
		a.Text = err.Error()
	}
	raw, err = json.Marshal(a)
	return err == nil && unix.Sendmsg(doorFD, raw, nil, nil, unix.MSG_NOSIGNAL) == nil
}

// obey makes the leap that an order describes.
func obey(raw, oob []byte) (pids []int, err error) {
	files, err := receivedFiles(oob)
	defer closeFiles(files) // the process has them
	var o leapOrder
	if err = errors.Join(err, json.Unmarshal(raw, &o)); err != nil {
		return nil, err
	}
	l := leap{args: o.Args, env: o.Env, session: o.Session, spaces: o.Spaces, fresh: o.Fresh, as: o.As, foreign: true}
	next := 0
	take := func(isOpen bool) (f *os.File) {
		if isOpen && next < len(files) {
			f = files[next]
			next++
		}
		return f
	}
	for _, isOpen := range o.Open {
		l.files = append(l.files, take(isOpen))
	}
	l.binary, l.target, l.group = take(true), take(true), take(o.Group)
	if l.binary == nil || l.target == nil {
		return nil, errors.New("descriptors are missing")
	}
	err = withSlack(func() (err error) {
		pids, err = l.jump()
		return err
	})
	return pids, err
}
