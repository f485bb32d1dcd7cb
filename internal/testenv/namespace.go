package testenv

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// IsRoot tells whether this process is root of the machine, and not only of a
// user namespace.
func IsRoot() bool {
	ids, err := os.ReadFile("/proc/self/uid_map")
	if err != nil { // no user namespaces in this kernel
		return os.Geteuid() == 0
	}
	return os.Geteuid() == 0 && strings.Join(strings.Fields(string(ids)), " ") == "0 0 4294967295"
}

// Root skips the test unless it runs as root of the machine.
func Root(t testing.TB) {
	t.Helper()
	if !IsRoot() {
		t.Skip("needs root: run it as `sudo make test`")
	}
}

// namespaceEnv marks a process that InNamespace has started.
const namespaceEnv = "VARVE_TEST_NAMESPACE"

// InNamespace is for TestMain of a package whose tests mount and unmount: when an
// ordinary user runs them, it runs the test binary again as root of a user
// namespace with a mount namespace of its own, and returns its exit code and
// true. It returns false if the tests are to run right here: as root, or where
// the machine does not let users make namespaces.
func InNamespace() (code int, ran bool) {
	if os.Geteuid() == 0 || os.Getenv(namespaceEnv) != "" {
		return 0, false
	}
	enter := []string{"--user", "--map-root-user", "--mount"}
	self, err := os.Executable()
	if err != nil || exec.Command("unshare", append(enter, "true")...).Run() != nil {
		return 0, false
	}
	cmd := exec.Command("unshare", append(append(enter, self), os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), namespaceEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, true
	case errors.As(err, &exit):
		return exit.ExitCode(), true
	}
	return 1, true
}
