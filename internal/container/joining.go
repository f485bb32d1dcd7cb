package container

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/runner"
)

// ContainerMode begins the mode of --ipc, --network, --pid and --userns that puts a container
// into a namespace of another one: docker's container:NAME. It is kept with the ID in the
// place of the name.
const ContainerMode = "container:"

// Donor is the ID of the container that a mode names, "" if it names none.
func Donor(mode string) string {
	id, _ := strings.CutPrefix(mode, ContainerMode)
	if id == mode {
		return ""
	}
	return id
}

// followDonors takes what another container shares with this machine for this machine's: it is
// nobody's to be joined.
func (p Place) followDonors(b *Sandbox) error {
	for _, mode := range []*string{&b.IPC, &b.PID, &b.Network} {
		id := Donor(*mode)
		if id == "" {
			continue
		}
		spec, err := p.ReadSpec(id)
		if err != nil {
			return err
		}
		other := &spec.Sandbox
		if err = p.followDonors(other); err != nil {
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
func (p Place) openDonors(b *Sandbox) (shared runner.Shared, err error) {
	defer func() {
		if err != nil {
			closeShared(shared)
		}
	}()
	network := b.Network
	if b.onHost {
		network = ""
	}
	if shared.Network, err = p.openDonor(network, "cannot join network of a non running container: %s"); err != nil {
		return shared, err
	}
	if shared.PID, err = p.openDonor(b.PID, "cannot join PID of a non running container: %s"); err != nil {
		return shared, err
	}
	if shared.Users, err = p.openDonor(b.Userns, "cannot join the user namespace of a non running container: %s"); err != nil {
		return shared, err
	}
	id := Donor(b.IPC)
	if id == "" {
		return shared, nil
	}
	spec, err := p.ReadSpec(id)
	if err != nil {
		return shared, err
	}
	switch spec.Sandbox.IPC {
	case "shareable", "host":
	default:
		return shared, fmt.Errorf("can't join IPC of container %s: non-shareable IPC (hint: use IpcMode:shareable for the donor container)", id)
	}
	shared.IPC, err = p.openDonor(b.IPC, "can't join IPC of a non running container: %s")
	return shared, err
}

// CheckDonors says why the container can not join others now, if it can not.
func (p Place) CheckDonors(b *Sandbox) error {
	shared, err := p.openDonors(b)
	if err == nil {
		closeShared(shared)
	}
	return err
}

// openDonor is a pidfd of the first process of the container that a mode names, nil if it
// names none.
func (p Place) openDonor(mode, refusal string) (*os.File, error) {
	id := Donor(mode)
	if id == "" {
		return nil, nil
	}
	state, err := p.ReadState(id)
	switch {
	case err != nil:
		return nil, err
	case state.Status == Restarting:
		//lint:ignore ST1005 docker's words
		return nil, fmt.Errorf("Container %s is restarting, wait until the container is running", id)
	case state.Status != Running:
		return nil, fmt.Errorf(refusal, id)
	}
	f, err := state.Init.Open()
	if errors.Is(err, os.ErrProcessDone) {
		return nil, fmt.Errorf(refusal, id)
	}
	return f, err
}

// Open returns a pidfd of the process; one that has ended is os.ErrProcessDone.
func (p Proc) Open() (*os.File, error) {
	fd, err := unix.PidfdOpen(p.Pid, 0)
	if err != nil {
		return nil, errors.Join(os.ErrProcessDone, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	if !p.Alive() {
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

// EtcOwner is the container whose files of /etc this one has: its own, or, as it has its
// network, those of another.
func (s *Spec) EtcOwner() string {
	if id := Donor(s.Sandbox.Network); id != "" {
		return id
	}
	return s.ID
}
