package main

import (
	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/container"
)

// namingFlags are docker's flags for the names of machines, and second names that it
// has for some. The flags of isolationFlags are there.
func namingFlags(cmd *cobra.Command, want *container.Naming) {
	f := cmd.Flags()
	f.StringArrayVar(&want.ExtraHosts, "add-host", nil, "a line of its /etc/hosts, NAME:ADDRESS; the address host-gateway is this machine's")
	f.StringArrayVar(&want.DNS, "dns", nil, "have it ask this server of names (default: this machine's)")
	f.StringArrayVar(&want.DNSSearch, "dns-search", nil, "have it look for short names in this domain, . for none (default: this machine's)")
	f.StringArrayVar(&want.DNSOptions, "dns-option", nil, "an option of its resolv.conf, as in ndots:2")
	f.Var(f.Lookup("dns-option").Value, "dns-opt", "the same")
	f.Var(f.Lookup("network").Value, "net", "the same")
	for _, name := range []string{"dns-opt", "net"} {
		_ = f.MarkHidden(name) // it is there
	}
}
