package engine

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/archive"
	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/runner"
)

// Courier is what the hidden verb does that copies files out of a container and into it: a
// process that sees the files of the container and nothing else, so that no path and no link
// in them leads out, and that no program of the container can see. It executes nothing and
// loads nothing. It was started by the process that serves the view, in a mount namespace
// of its own.
//
// mapped says that the view is that of a container that runs, which may have a user namespace.
func (e *Engine) Courier(id string, mapped bool) error {
	w, err := container.NewWire(os.NewFile(container.ControlFD, "control"))
	if err != nil {
		return err
	}
	r, _, err := w.ReceiveRequest()
	if err != nil || r.Copy == nil {
		return errors.Join(err, errors.New("courier: no order has come"))
	}
	stream := os.NewFile(container.StreamFD, "stream")
	told, err := e.carry(w, *r.Copy, id, mapped, stream)
	// First the end of the tar, then the word that it is whole.
	word := container.Reply{Event: container.EventDone, Copy: told}
	if err = errors.Join(err, stream.Close()); err != nil {
		word = container.Reply{Event: container.EventFailed, Error: err.Error(), Copy: told}
	}
	_ = w.Send(word) // it may be gone, and knows why
	return nil
}

func (e *Engine) carry(w *container.Wire, o container.CopyOrder, id string, mapped bool, stream *os.File) (*container.CopyReply, error) {
	spec, err := e.ReadSpec(id)
	if err != nil {
		return nil, err
	}
	ns, err := runner.CurrentUserns()
	if err != nil {
		return nil, err
	}
	if err = e.MapOwnID(&spec.Sandbox); err != nil {
		return nil, err
	}
	view := runner.View{
		Root:   filepath.Join(e.store.ContainerDir(id), container.ViewName),
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
func (e *Engine) etcMounts(spec *container.Spec) (list []runner.Mount) {
	for _, name := range container.EtcNames() {
		source, target := e.EtcFile(spec.EtcOwner(), name), "/etc/"+name
		if info, err := os.Lstat(source); err == nil && info.Mode().IsRegular() && !spec.HasMountOn(target) {
			list = append(list, runner.Mount{Source: source, Target: target, Cover: true})
		}
	}
	return list
}

// read writes the files at the path of the order to the stream.
func (j jail) read(w *container.Wire, o container.CopyOrder, stream io.Writer) (*container.CopyReply, error) {
	dir, base, s, err := j.source(o.Path, o.Follow)
	if err != nil {
		return refusal(err)
	}
	defer func() { _ = unix.Close(dir) }() // only read
	if err := w.Send(container.Reply{Event: container.EventStarted, Copy: &container.CopyReply{Source: s}}); err != nil {
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
			showInside(&j.ids, &f)
			if !yield(f, err) {
				return
			}
		}
	}
}

// write makes files of the stream at the path of the order.
func (j jail) write(o container.CopyOrder, stream io.Reader, single bool) (*container.CopyReply, error) {
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
		opt.Shown = j.ids.Owner
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
	return &container.CopyReply{Omitted: out.Omitted}, err
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
func refusal(err error) (*container.CopyReply, error) {
	if errors.Is(err, fs.ErrNotExist) {
		return &container.CopyReply{Absent: true}, err
	}
	if errors.Is(err, unix.ENOTDIR) {
		err = errors.New("not a directory")
	}
	return nil, err
}
