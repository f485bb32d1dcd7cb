package runner

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSysctls: they reach the kernel, in the container's namespaces, and not files of the
// image under the same names.
func TestSysctls(t *testing.T) {
	needRoot(t)
	root := busyboxRoot(t)
	planted := filepath.Join(root, "proc/sys/net/ipv4/ip_forward")
	require.NoError(t, os.MkdirAll(filepath.Dir(planted), 0o755))
	require.NoError(t, os.WriteFile(planted, []byte("planted"), 0o666))
	read := func(name string) string {
		raw, err := os.ReadFile(name)
		require.NoError(t, err)
		return string(raw)
	}
	const forward, domain = "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/domainname"
	before := read(forward) + read(domain)
	cfg := sh(root, "cat "+forward+" "+domain)
	cfg.Network, cfg.Domainname = NoNetwork, "example.org"
	for _, value := range []string{"0", "1"} { // this machine has one of them
		cfg.Sysctls = map[string]string{"net.ipv4.ip_forward": value}
		text, code := output(t, cfg)
		require.Zero(t, code, text)
		require.Equal(t, value+"\nexample.org\n", text)
	}
	require.Equal(t, "planted", read(planted))
	require.Equal(t, before, read(forward)+read(domain))
	for name, says := range map[string]string{
		"net.ipv4.nothing":    "set the sysctl net.ipv4.nothing: open /proc/sys/net/ipv4/nothing: no such file or directory",
		"net.":                "set the sysctl net.: open /proc/sys/net: is a directory",
		"net/../../self/comm": "set the sysctl net/../../self/comm: open /proc/sys/net/self/comm: no such file or directory",
	} {
		cfg.Sysctls = map[string]string{name: "1"}
		_, err := Start(cfg)
		require.EqualError(t, err, says)
	}
}
