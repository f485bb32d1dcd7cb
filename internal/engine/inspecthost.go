package engine

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/runner"
)

// InspectHostConfig is what was asked of the machine.
type InspectHostConfig struct {
	Binds             []string
	ContainerIDFile   string
	LogConfig         InspectLog
	NetworkMode       string
	RestartPolicy     InspectRestart
	AutoRemove        bool
	CapAdd            []string
	CapDrop           []string
	CgroupnsMode      string
	DNS               []string `json:"Dns"`
	DNSOptions        []string `json:"DnsOptions"`
	DNSSearch         []string `json:"DnsSearch"`
	ExtraHosts        []string
	GroupAdd          []string
	IpcMode           string
	OomScoreAdj       int
	PidMode           string
	Privileged        bool
	ReadonlyRootfs    bool
	SecurityOpt       []string
	Tmpfs             map[string]string `json:",omitempty"`
	UTSMode           string
	UsernsMode        string
	ShmSize           int64
	CPUShares         int64 `json:"CpuShares"`
	Memory            int64
	NanoCPUs          int64  `json:"NanoCpus"`
	CpusetCPUs        string `json:"CpusetCpus"`
	Devices           []InspectDevice
	MemorySwap        int64
	CPUPeriod         int64 `json:"CpuPeriod"`
	CPUQuota          int64 `json:"CpuQuota"`
	CpusetMems        string
	MemoryReservation int64
	MemorySwappiness  *int64
	OomKillDisable    bool
	Sysctls           map[string]string `json:",omitempty"`
	PidsLimit         *int64
	Ulimits           []InspectUlimit
	Mounts            []InspectMountSpec `json:",omitempty"`
	MaskedPaths       []string
	ReadonlyPaths     []string
	Init              *bool `json:",omitempty"`

	inspectAbsent
}

// inspectAbsent are docker's keys of HostConfig for what can not be asked for here: what
// reads them finds that it was not.
type inspectAbsent struct {
	BlkioWeight       uint16
	Cgroup            string
	CgroupParent      string
	ConsoleSize       [2]uint
	DeviceCgroupRules []string
	DeviceRequests    []struct{}
	Isolation         string
	KernelMemory      int64
	Links             []string
	PortBindings      map[string][]struct{}
	PublishAllPorts   bool
	Runtime           string
	VolumeDriver      string
	VolumesFrom       []string
}

// InspectDevice is a device of the host that a container has.
type InspectDevice struct {
	PathOnHost        string
	PathInContainer   string
	CgroupPermissions string
}

// InspectRestart is when a container is started again.
type InspectRestart struct {
	Name              string
	MaximumRetryCount int
}

// InspectLog is where what a container says is kept.
type InspectLog struct {
	Type   string
	Config map[string]string
}

// InspectUlimit is a limit of each process; -1 is none.
type InspectUlimit struct {
	Name string
	Hard int64
	Soft int64
}

// InspectMountSpec is a --mount as it was asked for.
type InspectMountSpec struct {
	Type     string
	Source   string `json:",omitempty"`
	Target   string
	ReadOnly bool `json:",omitempty"`
}

// InspectNetwork is how a container is reached. It shares the machine's network or has
// none, and has no address of its own.
type InspectNetwork struct {
	Bridge    string
	SandboxID string
	Ports     map[string][]struct{}
	Networks  map[string]InspectEndpoint // one, by docker's name of the network
	InspectAddress
}

// InspectAddress is an address, which none has.
type InspectAddress struct {
	EndpointID          string
	Gateway             string
	GlobalIPv6Address   string
	GlobalIPv6PrefixLen int
	IPAddress           string
	IPPrefixLen         int
	IPv6Gateway         string
	MacAddress          string
}

// InspectEndpoint is a container's end of a network.
type InspectEndpoint struct {
	Aliases   []string
	Links     []string
	NetworkID string
	InspectAddress
}

func inspectNetwork(spec container.Spec) InspectNetwork {
	out := InspectNetwork{Ports: map[string][]struct{}{}, Networks: map[string]InspectEndpoint{}}
	if spec.Sandbox.Network == "" { // else it is the other container's
		out.Networks[spec.Network()] = InspectEndpoint{}
	}
	return out
}

func inspectHost(spec container.Spec) InspectHostConfig {
	box, limits := &spec.Sandbox, &spec.Sandbox.Limits
	out := InspectHostConfig{
		NetworkMode: spec.Network(), AutoRemove: spec.Remove,
		RestartPolicy: InspectRestart{cmp.Or(spec.Restart.Name, "no"), spec.Restart.Max},
		LogConfig:     InspectLog{cmp.Or(spec.Log.Driver, container.LogJSON), map[string]string{}},
		DNS:           notNil(box.Naming.DNS), DNSOptions: notNil(box.Naming.DNSOptions), DNSSearch: notNil(box.Naming.DNSSearch),
		ExtraHosts: notNil(box.Naming.ExtraHosts), Binds: []string{},
		CapAdd: notNil(box.CapAdd), CapDrop: notNil(box.CapDrop), SecurityOpt: notNil(box.SecurityOpt),
		CgroupnsMode: cmp.Or(box.CgroupNS, "private"), IpcMode: cmp.Or(box.IPC, "private"), UTSMode: box.UTS,
		PidMode: box.PID, UsernsMode: box.Userns,
		GroupAdd: notNil(box.Groups), OomScoreAdj: box.OOMScoreAdj, Privileged: box.Privileged, ReadonlyRootfs: box.ReadOnly,
		ShmSize:   cmp.Or(box.ShmSize, runner.DefaultShmSize),
		CPUShares: limits.CPUShares, Memory: limits.Memory, NanoCPUs: limits.NanoCPUs, CpusetCPUs: limits.CPUSet,
		CPUPeriod: limits.CPUPeriod, CPUQuota: limits.CPUQuota, CpusetMems: limits.CPUSetMems, MemoryReservation: limits.MemoryReservation,
		MemorySwappiness: limits.MemorySwappiness, OomKillDisable: limits.OOMKillDisable, Sysctls: box.Sysctls,
		MemorySwap: cmp.Or(limits.MemorySwap, 2*limits.Memory), Devices: []InspectDevice{}, Ulimits: inspectUlimits(box.Rlimits),
		MaskedPaths: []string{}, ReadonlyPaths: []string{},
		inspectAbsent: inspectAbsent{PortBindings: map[string][]struct{}{}},
	}
	if !box.Privileged && !box.Unmasked {
		out.MaskedPaths, out.ReadonlyPaths = runner.MaskedPaths(), runner.ReadOnlyPaths()
	}
	for _, d := range box.Devices {
		out.Devices = append(out.Devices, InspectDevice{d.Source, d.Target, "rwm"})
	}
	if spec.Init {
		out.Init = &spec.Init
	}
	if limits.Pids > 0 {
		out.PidsLimit = &limits.Pids
	}
	if spec.Log.Driver == container.LogJSON {
		out.LogConfig.Config["max-size"] = strconv.FormatInt(spec.Log.MaxSize, 10)
		out.LogConfig.Config["max-file"] = strconv.Itoa(spec.Log.MaxFiles)
	}
	out.addMounts(spec)
	return out
}

// addMounts tells the flags apart that mounts were asked for by.
func (out *InspectHostConfig) addMounts(spec container.Spec) {
	for _, m := range spec.Mounts {
		out.Binds = append(out.Binds, strings.TrimSuffix(m.Source+":"+m.Target+":"+accessMode(m.ReadOnly), ":"))
	}
	for _, m := range spec.Sandbox.Mounts {
		out.Mounts = append(out.Mounts, InspectMountSpec{"bind", m.Source, m.Target, m.ReadOnly})
	}
	for _, t := range spec.Sandbox.TmpfsMounts {
		out.Mounts = append(out.Mounts, InspectMountSpec{Type: "tmpfs", Target: t.Target, ReadOnly: slices.Contains(t.Options, "ro")})
	}
	for _, t := range spec.Sandbox.Tmpfs {
		if out.Tmpfs == nil {
			out.Tmpfs = map[string]string{}
		}
		out.Tmpfs[t.Target] = strings.Join(t.Options, ",")
	}
}

func inspectUlimits(list []runner.Rlimit) []InspectUlimit {
	names := rlimits()
	out := []InspectUlimit{}
	for _, limit := range list {
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if names[name] == limit.Resource {
				out = append(out, InspectUlimit{name, int64(limit.Hard), int64(limit.Soft)})
			}
		}
	}
	return out
}
