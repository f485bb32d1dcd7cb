package engine

import (
	"cmp"
	"os"
	"strings"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/layerdb"
)

// checkMode refuses what is neither one of the words nor a container.
func checkMode(mode string, words ...string) bool {
	if name, ok := strings.CutPrefix(mode, container.ContainerMode); ok {
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
// shares a hostname and a domainname, too.
func (e *Engine) findDonors(tx *layerdb.Tx, b *container.Sandbox) error {
	for _, mode := range []*string{&b.IPC, &b.PID, &b.Network, &b.Userns} {
		name := container.Donor(*mode)
		if name == "" {
			continue
		}
		c, err := tx.FindContainer(name)
		if err != nil {
			return err
		}
		*mode = container.ContainerMode + c.ID
		spec, err := e.ReadSpec(c.ID)
		if err != nil {
			return err
		}
		switch mode {
		case &b.Network:
			b.Hostname, b.Domainname = spec.Hostname, spec.Sandbox.Domainname
		case &b.Userns:
			b.UIDs, b.GIDs = spec.Sandbox.UIDs, spec.Sandbox.GIDs // nobody else gets them as long as this one is there
			if len(b.UIDs) > 0 && b.Privileged && os.Geteuid() == 0 {
				return errPrivileged
			}
		}
	}
	return nil
}

// openNeighbour is a pidfd of the supervisor in whose user namespace that of a container has
// to be, to have power over the namespaces that it joins: an ordinary user has a user
// namespace for each supervisor. nil is none.
func (e *Engine) openNeighbour(b *container.Sandbox) (*os.File, error) {
	if container.Donor(b.IPC) == "" && container.Donor(b.PID) == "" && container.Donor(b.Network) == "" && container.Donor(b.Userns) == "" {
		return nil, nil
	}
	plan, err := planUserns(e.Root())
	if err != nil || plan == nil {
		return nil, err
	}
	err = e.store.View(func(tx *layerdb.Tx) error { return e.findDonors(tx, b) })
	if err == nil {
		err = e.CheckDonors(b)
	}
	if err != nil {
		return nil, err
	}
	state, err := e.ReadState(cmp.Or(container.Donor(b.Userns), container.Donor(b.IPC), container.Donor(b.PID), container.Donor(b.Network)))
	if err != nil {
		return nil, err
	}
	return state.Supervisor.Open()
}
