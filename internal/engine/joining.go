package engine

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/layerdb"
	"github.com/varvefs/varve/runner"
)

// A container may be in namespaces of another one: docker's mode container:NAME of --ipc,
// --network and --pid. It is kept with the ID in the place of the name.

const containerMode = "container:"

// donor is the ID of the container that a mode names, "" if it names none.
func donor(mode string) string {
	id, _ := strings.CutPrefix(mode, containerMode)
	if id == mode {
		return ""
	}
	return id
}

// checkMode refuses what is neither one of the words nor a container.
func checkMode(mode string, words ...string) bool {
	if name, ok := strings.CutPrefix(mode, containerMode); ok {
		return name != ""
	}
	for _, word := range words {
		if mode == word {
			return true
		}
	}
	return false
}

// findDonors puts IDs in the place of the names of other containers. Who shares a network
// shares a hostname, too.
func (e *Engine) findDonors(tx *layerdb.Tx, b *Sandbox) error {
	for _, mode := range []*string{&b.IPC, &b.PID, &b.Network, &b.Userns} {
		name := donor(*mode)
		if name == "" {
			continue
		}
		c, err := tx.FindContainer(name)
		if err != nil {
			return err
		}
		*mode = containerMode + c.ID
		spec, err := e.readSpec(c.ID)
		if err != nil {
			return err
		}
		switch mode {
		case &b.Network:
			b.Hostname = spec.Hostname
		case &b.Userns:
			b.UIDs, b.GIDs = spec.Sandbox.UIDs, spec.Sandbox.GIDs // nobody else gets them as long as this one is there
			if len(b.UIDs) > 0 && b.Privileged && os.Geteuid() == 0 {
				return errPrivileged
			}
		}
	}
	return nil
}

// followDonors takes what another container shares with this machine for this machine's: it is
// nobody's to be joined.
func (e *Engine) followDonors(b *Sandbox) error {
	for _, mode := range []*string{&b.IPC, &b.PID, &b.Network} {
		id := donor(*mode)
		if id == "" {
			continue
		}
		spec, err := e.readSpec(id)
		if err != nil {
			return err
		}
		other := &spec.Sandbox
		if err = e.followDonors(other); err != nil {
			return err
		}
		switch {
		case mode == &b.IPC && other.IPC == "host", mode == &b.PID && other.PID == "host":
			*mode = "host"
		case mode == &b.Network:
			b.onHost = !other.NoNetwork && (other.Network == "" || other.onHost)
		}
	}
	return nil
}

// openDonors opens what the container is to join, for [runner.Start]. The caller closes it.
// The sentences are docker's.
func (e *Engine) openDonors(b *Sandbox) (shared runner.Shared, err error) {
	defer func() {
		if err != nil {
			closeShared(shared)
		}
	}()
	network := b.Network
	if b.onHost {
		network = ""
	}
	if shared.Network, err = e.openDonor(network, "cannot join network of a non running container: %s"); err != nil {
		return shared, err
	}
	if shared.PID, err = e.openDonor(b.PID, "cannot join PID of a non running container: %s"); err != nil {
		return shared, err
	}
	if shared.Users, err = e.openDonor(b.Userns, "cannot join the user namespace of a non running container: %s"); err != nil {
		return shared, err
	}
	id := donor(b.IPC)
	if id == "" {
		return shared, nil
	}
	spec, err := e.readSpec(id)
	if err != nil {
		return shared, err
	}
	switch spec.Sandbox.IPC {
	case "shareable", "host":
	default:
		return shared, fmt.Errorf("can't join IPC of container %s: non-shareable IPC (hint: use IpcMode:shareable for the donor container)", id)
	}
	shared.IPC, err = e.openDonor(b.IPC, "can't join IPC of a non running container: %s")
	return shared, err
}

// checkDonors says why the container can not join others now, if it can not.
func (e *Engine) checkDonors(b *Sandbox) error {
	shared, err := e.openDonors(b)
	if err == nil {
		closeShared(shared)
	}
	return err
}

// openNeighbour is a pidfd of the supervisor in whose user namespace that of a container has
// to be, to have power over the namespaces that it joins: an ordinary user has a user
// namespace for each supervisor. nil is none.
func (e *Engine) openNeighbour(b *Sandbox) (*os.File, error) {
	if donor(b.IPC) == "" && donor(b.PID) == "" && donor(b.Network) == "" && donor(b.Userns) == "" {
		return nil, nil
	}
	plan, err := runner.PlanUserns()
	if err != nil || plan == nil {
		return nil, err
	}
	err = e.store.View(func(tx *layerdb.Tx) error { return e.findDonors(tx, b) })
	if err == nil {
		err = e.checkDonors(b)
	}
	if err != nil {
		return nil, err
	}
	state, err := e.readState(cmp.Or(donor(b.Userns), donor(b.IPC), donor(b.PID), donor(b.Network)))
	if err != nil {
		return nil, err
	}
	return state.Supervisor.open()
}

// openDonor is a pidfd of the first process of the container that a mode names, nil if it
// names none.
func (e *Engine) openDonor(mode, refusal string) (*os.File, error) {
	id := donor(mode)
	if id == "" {
		return nil, nil
	}
	state, err := e.readState(id)
	switch {
	case err != nil:
		return nil, err
	case state.Status == Restarting:
		//lint:ignore ST1005 docker's words
		return nil, fmt.Errorf("Container %s is restarting, wait until the container is running", id)
	case state.Status != Running:
		return nil, fmt.Errorf(refusal, id)
	}
	f, err := state.Init.open()
	if errors.Is(err, os.ErrProcessDone) {
		return nil, fmt.Errorf(refusal, id)
	}
	return f, err
}

// open returns a pidfd of the process; one that has ended is os.ErrProcessDone.
func (p Proc) open() (*os.File, error) {
	fd, err := unix.PidfdOpen(p.Pid, 0)
	if err != nil {
		return nil, errors.Join(os.ErrProcessDone, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	if !p.alive() {
		return nil, errors.Join(os.ErrProcessDone, f.Close())
	}
	return f, nil
}

func closeShared(s runner.Shared) {
	for _, f := range []*os.File{s.PID, s.Network, s.IPC, s.Users} {
		if f != nil {
			_ = f.Close() // a pidfd
		}
	}
}

// etcOwner is the container whose files of /etc this one has: its own, or, as it has its
// network, those of another.
func (s *Spec) etcOwner() string {
	if id := donor(s.Sandbox.Network); id != "" {
		return id
	}
	return s.ID
}
