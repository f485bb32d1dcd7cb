package engine

import (
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/cgroup"
	"github.com/varvefs/varve/internal/container"
)

// Info is what there is here, under docker's names.
type Info struct {
	Containers        int
	ContainersRunning int
	ContainersPaused  int
	ContainersStopped int
	Images            int
	Driver            string
	LoggingDriver     string
	CgroupDriver      string
	CgroupVersion     string
	MemoryLimit       bool // whether a container of this user can be limited so
	CPUCfsQuota       bool `json:"CpuCfsQuota"`
	CPUSet            bool
	PidsLimit         bool
	KernelVersion     string
	OperatingSystem   string
	OSVersion         string
	OSType            string
	Architecture      string
	NCPU              int
	MemTotal          uint64 // bytes
	DockerRootDir     string // the store
	Name              string // of this machine
	ServerVersion     string // the caller's to say
	SecurityOptions   []string
}

// Info tells what there is here.
func (e *Engine) Info() (Info, error) {
	i := Info{
		Driver: "varve", LoggingDriver: container.LogJSON, OSType: "linux", NCPU: runtime.NumCPU(), MemTotal: MachineMemory(),
		DockerRootDir: e.Root(), CgroupVersion: cgroup.Version(), CgroupDriver: "none",
		SecurityOptions: []string{"name=seccomp,profile=builtin"},
	}
	if err := e.countAll(&i); err != nil {
		return i, err
	}
	i.describeMachine()
	plan, err := planUserns(e.Root())
	if err != nil {
		return i, err
	}
	if plan != nil {
		i.SecurityOptions = append(i.SecurityOptions, "name=rootless")
	}
	i.SecurityOptions = append(i.SecurityOptions, "name=cgroupns")
	return i, i.describeLimits()
}

// countAll counts containers and images.
func (e *Engine) countAll(i *Info) error {
	list, err := e.Containers()
	if err != nil {
		return err
	}
	i.Containers = len(list)
	for _, c := range list {
		switch {
		case c.State.Paused():
			i.ContainersPaused++
		case c.State.Up():
			i.ContainersRunning++
		default:
			i.ContainersStopped++
		}
	}
	images, err := e.Images()
	i.Images = len(images)
	return err
}

func (i *Info) describeMachine() {
	var name unix.Utsname
	if unix.Uname(&name) == nil { // it can not fail
		i.KernelVersion, i.Architecture, i.Name = text(name.Release[:]), text(name.Machine[:]), text(name.Nodename[:])
	}
	i.OperatingSystem = "Linux"
	raw, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return // not every system has it
	}
	for line := range strings.Lines(string(raw)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(value, `"'`)
		switch key {
		case "PRETTY_NAME":
			i.OperatingSystem = value
		case "VERSION_ID":
			i.OSVersion = value
		}
	}
}

func text(raw []byte) string {
	s, _, _ := strings.Cut(string(raw), "\x00")
	return s
}

// describeLimits finds out which limits this user's containers can have.
func (i *Info) describeLimits() error {
	host, err := cgroup.Find()
	if err != nil {
		return err
	}
	all := cgroup.Limits{Memory: 1 << 30, NanoCPUs: 1e9, CPUSet: "0", Pids: 1}
	group, missing := host.Plan(container.GroupPrefix+"plan", all)
	lacks := strings.Join(missing, " ")
	i.MemoryLimit, i.PidsLimit = !strings.Contains(lacks, "memory"), !strings.Contains(lacks, "pids")
	i.CPUSet, i.CPUCfsQuota = !strings.Contains(lacks, "cpuset"), true
	for _, name := range missing {
		if name == "cpu" {
			i.CPUCfsQuota = false
		}
	}
	if !group.IsZero() {
		i.CgroupDriver = "cgroupfs"
	}
	return nil
}
