package engine

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/runner"
)

// setNamespaces reads docker's --cgroupns, --ipc, --pid and --uts.
func setNamespaces(b *container.Sandbox, i Isolation) error {
	b.CgroupNS, b.IPC, b.UTS, b.PID = i.CgroupNS, i.IPC, i.UTS, i.PID
	switch i.CgroupNS {
	case "", "host", "private":
	default:
		return fmt.Errorf("--cgroupns: invalid CGROUP mode: %s", i.CgroupNS)
	}
	if !checkMode(i.IPC, "", "host", "none", "private", "shareable") {
		return fmt.Errorf("--ipc: invalid IPC mode: %s", i.IPC)
	}
	switch i.UTS {
	case "", "private":
		b.UTS = ""
	case "host":
		if i.Hostname != "" {
			return errors.New("conflicting options: hostname and the UTS mode")
		}
		if i.Domainname != "" {
			return errors.New(`sysctl "kernel.domainname" is not in a separate kernel namespace`) // runc's
		}
	default:
		return fmt.Errorf("--uts: invalid UTS mode: %s", i.UTS)
	}
	if err := setUserns(b, i); err != nil {
		return err
	}
	switch {
	case i.PID == "private":
		b.PID = ""
	case !checkMode(i.PID, "", "host"):
		return fmt.Errorf("--pid: invalid PID mode: %s", i.PID)
	}
	return nil
}

// setDevices reads docker's --device. What a node may be used for can not be made less
// here, so a mode that asks for that is refused.
func setDevices(b *container.Sandbox, list []string) error {
	for _, text := range list {
		part := strings.Split(text, ":")
		mode := "rwm"
		if last := len(part) - 1; last > 0 && isDeviceMode(part[last]) {
			mode, part = part[last], part[:last]
		}
		switch {
		case len(part) > 3 || text == "":
			return fmt.Errorf("bad format for path: %s", text)
		case len(part) > 2:
			return fmt.Errorf("bad mode specified: %s", part[len(part)-1])
		case len(part) == 1:
			part = append(part, part[0])
		}
		for _, name := range part {
			if !path.IsAbs(name) {
				return fmt.Errorf("%s is not an absolute path", name)
			}
		}
		if !strings.Contains(mode, "r") || !strings.Contains(mode, "w") {
			return errors.New("a device that can only be read, or written, is not to be had: leave out the mode, and choose a user who may do no more")
		}
		if _, err := os.Stat(part[0]); err != nil {
			return fmt.Errorf("error gathering device information while adding custom device %q: %w", part[0], errors.Unwrap(err))
		}
		target := path.Clean(part[1])
		if !strings.HasPrefix(target, "/dev/") {
			return fmt.Errorf("the device %s can only be put below /dev, not at %s", part[0], part[1])
		}
		b.Devices = append(b.Devices, runner.Device{Source: path.Clean(part[0]), Target: target})
	}
	return nil
}

func isDeviceMode(text string) bool {
	return text != "" && strings.Trim(text, "rwm") == "" && len(text) <= 3
}
