package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/runner"
)

// The descriptors of a courier, and of who mounts the view of a container for one:
// the connection to the verb, the pipe that the tar goes through, and, of the latter only,
// the container's lock.
const (
	StreamFD = 4
	lockFD   = 5
)

// A CopyOrder is what a courier is to do.
type CopyOrder struct {
	Read   bool   `json:"read,omitempty"` // out of the container; else into it
	Path   string `json:"path"`           // in the container
	Follow bool   `json:"follow,omitempty"`
	Named  bool   `json:"named,omitempty"` // the files of the tar begin with the name of the source
	Owners bool   `json:"owners,omitempty"`

	Source CopySource `json:"source,omitzero"` // of a copy into the container
}

// A CopyReply is what a courier tells of it.
type CopyReply struct {
	Source  CopySource `json:"source,omitzero"`
	Omitted int        `json:"omitted,omitempty"` // devices
	Absent  bool       `json:"absent,omitempty"`  // there is no such file
}

// startCourier starts one where this process serves the view of the container.
func (p Place) startCourier(id string, mapped bool, files []*os.File) (*runner.Child, error) {
	child, err := runner.StartSelf(runner.Self{
		Program: p.program, Args: []string{"varve", "courier", id, strconv.FormatBool(mapped)}, Env: Environ(p.Root()), Files: files, Stderr: os.Stderr, PrivateMounts: true,
	})
	if err != nil {
		return nil, fmt.Errorf("copy: %w", err)
	}
	return child, nil
}

// courier starts one for a guest, and tells when it has ended.
func (s *supervisor) courier(g *guest, files []*os.File) {
	err := s.lend(files)
	r := Reply{Event: EventDone}
	if err != nil {
		r = Reply{Event: EventFailed, Error: err.Error()}
	}
	_ = g.wire.Send(r) // it may be gone
}

// lend starts a courier and waits for its end. It is not left to live when the container
// ends, whose view it would keep.
func (s *supervisor) lend(files []*os.File) error {
	defer CloseAll(files)
	if len(files) != StreamFD-ControlFD+1 {
		return errors.New("copy: the descriptors do not fit")
	}
	child, err := s.sendCourier(files)
	if err != nil {
		return err
	}
	CloseAll(files) // so that the verb sees the courier's end
	_, err = child.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.couriers, child)
	s.away.Done()
	return err
}

func (s *supervisor) sendCourier(files []*os.File) (*runner.Child, error) {
	select {
	case <-s.mounted:
	case <-s.ended: // it never was
		return nil, ErrNotRunning
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, ErrNotRunning
	}
	child, err := s.place.startCourier(s.spec.ID, true, files)
	if err != nil {
		return nil, err
	}
	if s.couriers == nil {
		s.couriers = map[*runner.Child]bool{}
	}
	s.couriers[child] = true
	s.away.Add(1)
	return child, nil
}

// recallCouriers ends all of them, and lets no more go.
func (s *supervisor) recallCouriers() {
	s.mu.Lock()
	s.closing = true
	for child := range s.couriers {
		_ = child.Signal(unix.SIGKILL) // it may have ended
	}
	s.mu.Unlock()
	s.away.Wait()
}

// Lend is what the hidden verb does that mounts the view of a container that does not run,
// for a courier that it starts, until that has ended. It was given the container's lock.
func Lend(root, id string) error {
	for fd := ControlFD; fd <= lockFD; fd++ {
		unix.CloseOnExec(fd)
	}
	files := []*os.File{os.NewFile(ControlFD, "control"), os.NewFile(StreamFD, "stream")}
	s := &supervisor{place: Place{Dir: layout.At(root, nil)}}
	var err error
	if s.spec, err = s.place.ReadSpec(id); err != nil {
		return err
	}
	s.spec.Sandbox.UIDs, s.spec.Sandbox.GIDs = nil, nil // nobody else sees the view
	if err = s.mount(PrintWarning); err != nil {
		return err
	}
	TuneForServing()
	child, err := s.place.startCourier(id, false, files)
	CloseAll(files)
	if err == nil {
		_, err = child.Wait()
	}
	upper := filepath.Join(s.place.ContainerDir(id), UpperName)
	return errors.Join(err, s.server.Unmount(), TidyMountPoints(upper, s.chain.Lowers))
}

// A CopySource is what is copied, as far as the place of the copy depends on it.
type CopySource struct {
	Name    string `json:"name,omitempty"` // its last component; "" copies what is in a directory
	Dir     bool   `json:"dir,omitempty"`
	Archive bool   `json:"archive,omitempty"` // a tar from stdin
}
