package engine

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/archive"
	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/runner"
)

// The descriptors of a courier, and of who mounts the view of a container for one:
// the connection to the verb, the pipe that the tar goes through, and, of the latter only,
// the container's lock.
const (
	streamFD = 4
	lockFD   = 5
)

// A copyOrder is what a courier is to do.
type copyOrder struct {
	Read   bool   `json:"read,omitempty"` // out of the container; else into it
	Path   string `json:"path"`           // in the container
	Follow bool   `json:"follow,omitempty"`
	Named  bool   `json:"named,omitempty"` // the files of the tar begin with the name of the source
	Owners bool   `json:"owners,omitempty"`

	Source copySource `json:"source,omitzero"` // of a copy into the container
}

// A copyReply is what a courier tells of it.
type copyReply struct {
	Source  copySource `json:"source,omitzero"`
	Omitted int        `json:"omitted,omitempty"` // devices
	Absent  bool       `json:"absent,omitempty"`  // there is no such file
}

// Courier is what the hidden verb does that copies files out of a container and into it: a
// process that sees the files of the container and nothing else, so that no path and no link
// in them leads out, and that no program of the container can see. It executes nothing and
// loads nothing. It was started by the process that serves the view, in a mount namespace
// of its own.
//
// mapped says that the view is that of a container that runs, which may have a user namespace.
func (e *Engine) Courier(id string, mapped bool) error {
	w, err := newWire(os.NewFile(controlFD, "control"))
	if err != nil {
		return err
	}
	r, _, err := w.receiveRequest()
	if err != nil || r.Copy == nil {
		return errors.Join(err, errors.New("courier: no order has come"))
	}
	stream := os.NewFile(streamFD, "stream")
	told, err := e.carry(w, *r.Copy, id, mapped, stream)
	// First the end of the tar, then the word that it is whole.
	word := reply{Event: eventDone, Copy: told}
	if err = errors.Join(err, stream.Close()); err != nil {
		word = reply{Event: eventFailed, Error: err.Error(), Copy: told}
	}
	_ = w.send(word) // it may be gone, and knows why
	return nil
}

func (e *Engine) carry(w *wire, o copyOrder, id string, mapped bool, stream *os.File) (*copyReply, error) {
	spec, err := e.readSpec(id)
	if err != nil {
		return nil, err
	}
	ns, err := runner.CurrentUserns()
	if err != nil {
		return nil, err
	}
	if err = e.mapOwnID(&spec.Sandbox); err != nil {
		return nil, err
	}
	view := runner.View{
		Root:   filepath.Join(e.store.ContainerDir(id), viewName),
		Mounts: slices.Concat(spec.Mounts, spec.Sandbox.Mounts), Covers: e.etcMounts(&spec),
		ReadOnly: o.Read, ReadOnlyRoot: spec.Sandbox.ReadOnly,
	}
	root, err := view.Enclose()
	if err != nil {
		return nil, err
	}
	j := jail{root: root}
	if mapped {
		j.ids = spec.Sandbox
	}
	if o.Read {
		return j.read(w, o, stream)
	}
	return j.write(o, stream, ns != nil && ns.Single)
}

// etcMounts are those files of /etc that the container has of its own, once it has run.
func (e *Engine) etcMounts(spec *Spec) (list []runner.Mount) {
	for _, name := range etcNames() {
		source, target := e.etcFile(spec.etcOwner(), name), "/etc/"+name
		if info, err := os.Lstat(source); err == nil && info.Mode().IsRegular() && !spec.hasMountOn(target) {
			list = append(list, runner.Mount{Source: source, Target: target, Cover: true})
		}
	}
	return list
}

// read writes the files at the path of the order to the stream.
func (j jail) read(w *wire, o copyOrder, stream io.Writer) (*copyReply, error) {
	dir, base, s, err := j.source(o.Path, o.Follow)
	if err != nil {
		return refusal(err)
	}
	defer func() { _ = unix.Close(dir) }() // only read
	if err := w.send(reply{Event: eventStarted, Copy: &copyReply{Source: s}}); err != nil {
		return nil, err
	}
	as := ""
	if o.Named {
		as = s.Name
	}
	return nil, archive.WriteTree(stream, j.inside(archive.Files(dir, base, as)))
}

// inside has files be owned as they are in the container.
func (j jail) inside(files iter.Seq2[archive.File, error]) iter.Seq2[archive.File, error] {
	if len(j.ids.UIDs) == 0 {
		return files
	}
	return func(yield func(archive.File, error) bool) {
		for f, err := range files {
			j.ids.showInside(&f)
			if !yield(f, err) {
				return
			}
		}
	}
}

// write makes files of the stream at the path of the order.
func (j jail) write(o copyOrder, stream io.Reader, single bool) (*copyReply, error) {
	dir, under, err := j.target(o.Path, o.Source)
	if errors.Is(err, unix.ENOTDIR) {
		err = errors.New("extraction point is not a directory")
	}
	if err != nil {
		return refusal(err)
	}
	defer func() { _ = unix.Close(dir) }() // only read
	opt := archive.ExtractOptions{Under: under, Owner: archive.Attempted, Trusted: true, LeaveDirs: !o.Source.Archive}
	if !single && (o.Owners || o.Source.Archive) {
		opt.Owner = archive.Kept
	}
	if len(j.ids.UIDs) > 0 {
		opt.Shown = j.ids.owner
	}
	// Links on the way are the container's own, and so is all that they can lead to.
	opt.Follow = func(name string) (int, error) {
		return at.InRoot(j.root, path.Join("/", o.Path, name), unix.O_RDONLY|unix.O_DIRECTORY)
	}
	out, err := archive.Extract(bufio.NewReaderSize(stream, 1<<16), dir, opt)
	if err == nil {
		_, err = io.Copy(io.Discard, stream) // what comes after the end mark
	}
	if errors.Is(err, unix.EROFS) {
		err = j.explainReadOnly(dir)
	}
	return &copyReply{Omitted: out.Omitted}, err
}

// explainReadOnly says in docker's words what can not be written.
func (j jail) explainReadOnly(dir int) error {
	var root, here unix.Stat_t
	if err := errors.Join(at.Stat(j.root, "", &root), at.Stat(dir, "", &here)); err == nil && root.Dev == here.Dev {
		return errors.New("container rootfs is marked read-only")
	}
	return errors.New("mounted volume is marked read-only")
}

// refusal tells an absent file, which the verb has words for.
func refusal(err error) (*copyReply, error) {
	if errors.Is(err, fs.ErrNotExist) {
		return &copyReply{Absent: true}, err
	}
	if errors.Is(err, unix.ENOTDIR) {
		err = errors.New("not a directory")
	}
	return nil, err
}

// startCourier starts one where this process serves the view of the container.
func (e *Engine) startCourier(id string, mapped bool, files []*os.File) (*runner.Child, error) {
	child, err := runner.StartSelf(runner.Self{
		Args: []string{"varve", "courier", id, strconv.FormatBool(mapped)}, Env: environ(e.Root()), Files: files, Stderr: os.Stderr, PrivateMounts: true,
	})
	if err != nil {
		return nil, fmt.Errorf("copy: %w", err)
	}
	return child, nil
}

// courier starts one for a guest, and tells when it has ended.
func (s *supervisor) courier(g *guest, files []*os.File) {
	err := s.lend(files)
	r := reply{Event: eventDone}
	if err != nil {
		r = reply{Event: eventFailed, Error: err.Error()}
	}
	_ = g.wire.send(r) // it may be gone
}

// lend starts a courier and waits for its end. It is not left to live when the container
// ends, whose view it would keep.
func (s *supervisor) lend(files []*os.File) error {
	defer closeAll(files)
	if len(files) != streamFD-controlFD+1 {
		return errors.New("copy: the descriptors do not fit")
	}
	child, err := s.sendCourier(files)
	if err != nil {
		return err
	}
	closeAll(files) // so that the verb sees the courier's end
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
		return nil, errNotRunning
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, errNotRunning
	}
	child, err := s.engine.startCourier(s.spec.ID, true, files)
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
func (e *Engine) Lend(id string) error {
	for fd := controlFD; fd <= lockFD; fd++ {
		unix.CloseOnExec(fd)
	}
	files := []*os.File{os.NewFile(controlFD, "control"), os.NewFile(streamFD, "stream")}
	s := &supervisor{engine: e}
	var err error
	if s.spec, err = e.readSpec(id); err != nil {
		return err
	}
	s.spec.Sandbox.UIDs, s.spec.Sandbox.GIDs = nil, nil // nobody else sees the view
	if err = s.mount(printWarning); err != nil {
		return err
	}
	tuneForServing()
	child, err := e.startCourier(id, false, files)
	closeAll(files)
	if err == nil {
		_, err = child.Wait()
	}
	upper := filepath.Join(e.store.ContainerDir(id), upperName)
	return errors.Join(err, s.server.Unmount(), tidyMountPoints(upper, s.chain.lowers))
}
