package runner

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	Stage()
	if role := os.Getenv("RUNNER_TEST_ROLE"); role != "" && role != "tests" {
		os.Exit(playRole(role))
	}
	os.Exit(m.Run())
}

// busyboxRoot builds a small root file system in a new directory.
func busyboxRoot(t testing.TB) string {
	root := t.TempDir()
	fillBusyboxRoot(t, root)
	return root
}

func fillBusyboxRoot(t testing.TB, root string) {
	binary, err := exec.LookPath("busybox")
	require.NoError(t, err, "these tests need a static busybox: apt-get install busybox-static")
	data, err := os.ReadFile(binary)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(root, 0o755))
	require.NoError(t, os.Mkdir(filepath.Join(root, "bin"), 0o755))
	require.NoError(t, os.Mkdir(filepath.Join(root, "etc"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "bin/busybox"), data, 0o755))
	for name := range strings.FieldsSeq(applets) {
		require.NoError(t, os.Symlink("busybox", filepath.Join(root, "bin", name)))
	}
}

// applets are the programs that the tests run.
const applets = "cat chmod chown cut date env find grep head hostname id kill ls mkdir mknod mount ping ps readlink seq sh sleep sort stat stty su touch tr true tty wc"

// output runs the container and returns what it printed and its exit code.
func output(t testing.TB, cfg Config) (string, int) {
	t.Helper()
	text, code, err := runOutput(cfg)
	require.NoError(t, err)
	return text, code
}

func runOutput(cfg Config) (string, int, error) {
	file, err := os.CreateTemp("", "runner-output-")
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = os.Remove(file.Name()); _ = file.Close() }()
	cfg.Stdout, cfg.Stderr = file, file
	p, err := Start(cfg)
	if err != nil {
		return "", 0, err
	}
	code, err := p.Wait()
	if err != nil {
		return "", 0, err
	}
	data, err := os.ReadFile(file.Name())
	return string(data), code, err
}

func sh(root, script string) Config {
	return Config{Root: root, Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin"}}
}
