package main

import (
	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// sharingFlags are docker's flags for what of the host a container shares.
func sharingFlags(cmd *cobra.Command, want *engine.Isolation) {
	f := cmd.Flags()
	f.StringArrayVar(&want.Devices, "device", nil, "give it a device of the host, /dev/HOST[:/dev/INSIDE]")
	f.StringVar(&want.CgroupNS, "cgroupns", "", "its namespace of control groups, private or host (default private)")
	f.StringVar(&want.IPC, "ipc", "", "its shared memory and message queues: private, shareable, none (no /dev/shm), host, or container:NAME (default private)")
	f.StringVar(&want.PID, "pid", "", "its process ids: host, or container:NAME (default its own)")
	f.StringVar(&want.Userns, "userns", "", "its user namespace: auto[:size=N], with ids of its own; as an ordinary user keep-id[:uid=N,gid=N] or nomap; container:NAME (default host)")
	f.StringVar(&want.UTS, "uts", "", "its hostname: host, or its own (the default)")
}
