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
	f.StringVar(&want.IPC, "ipc", "", "its shared memory and message queues: private, none (no /dev/shm) or host (default private)")
	f.StringVar(&want.PID, "pid", "", "its process ids: private (the default); host is not there")
	f.StringVar(&want.Userns, "userns", "", "its user namespace: host, which is the default")
	f.StringVar(&want.UTS, "uts", "", "its hostname: host, or its own (the default)")
}
