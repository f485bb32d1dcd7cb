package engine

import (
	"fmt"
	"slices"
	"strings"

	"github.com/varvefs/varve/internal/container"
)

// ipcSysctls are those that each namespace of IPC has for itself (namespaces(7)), and so
// does what begins with mqueuePrefix; each namespace of networks has what begins with
// netPrefix. Docker knows the same.
func ipcSysctls() []string {
	return []string{"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
		"kernel.shmmni", "kernel.shm_rmid_forced"}
}

const (
	mqueuePrefix = "fs.mqueue."
	netPrefix    = "net."
)

// CheckSysctl refuses a --sysctl that would change this machine, as docker does.
func CheckSysctl(text string) error {
	name, _, has := strings.Cut(text, "=")
	if !has || !strings.HasPrefix(name, netPrefix) && !isIPC(name) {
		return fmt.Errorf("sysctl '%s' is not allowed", text)
	}
	return nil
}

func isIPC(name string) bool {
	return strings.HasPrefix(name, mqueuePrefix) || slices.Contains(ipcSysctls(), name)
}

// setSysctls reads --sysctl; of two of a name the later counts. It comes when the
// namespaces are known, as it refuses what is not the container's own.
func setSysctls(b *container.Sandbox, list []string) error {
	for _, text := range list {
		if err := CheckSysctl(text); err != nil {
			return err
		}
		name, value, _ := strings.Cut(text, "=")
		if err := ownsSysctl(b, name); err != nil {
			return err
		}
		if b.Sysctls == nil {
			b.Sysctls = map[string]string{}
		}
		b.Sysctls[name] = value
	}
	return nil
}

// ownsSysctl refuses what is another's. The sentences for this machine are runc's.
func ownsSysctl(b *container.Sandbox, name string) error {
	switch {
	case isIPC(name) && b.IPC == "host":
		return fmt.Errorf("sysctl %q is not allowed in the hosts ipc namespace", name)
	case isIPC(name) && container.Donor(b.IPC) != "":
		return fmt.Errorf("sysctl %q is not allowed in the ipc namespace of another container", name)
	case !isIPC(name) && b.Network != "":
		return fmt.Errorf("sysctl %q is not allowed in the network namespace of another container", name)
	case !isIPC(name) && !b.NoNetwork:
		return fmt.Errorf("sysctl %q not allowed in host network namespace", name)
	}
	return nil
}
