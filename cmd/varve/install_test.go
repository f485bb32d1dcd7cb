package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
)

// TestInstall: what is installed runs under its three names, and removing leaves
// nothing but a program of another's.
func TestInstall(t *testing.T) {
	dest := t.TempDir()
	install := func(what string) error {
		cmd := exec.Command("../../scripts/install.sh", what, dest)
		cmd.Env = append(os.Environ(), "BINDIR=/usr/bin", "SBINDIR=/sbin", "DATADIR=/usr/share")
		out, err := cmd.CombinedOutput()
		t.Log(string(out))
		return err
	}
	require.NoError(t, install(testenv.Varve(t)))
	require.NoError(t, install(testenv.Varve(t)), "over an installed one")
	for name, says := range map[string]string{"varve": "varve test ", "fuse-overlayfs": "fuse-overlayfs: version "} {
		flag := map[string]string{"varve": "version", "fuse-overlayfs": "--version"}[name]
		out, err := exec.Command(filepath.Join(dest, "usr/bin", name), flag).Output()
		require.NoError(t, err)
		require.Contains(t, string(out), says)
	}
	target, err := os.Readlink(filepath.Join(dest, "sbin/mount.fuse.varve"))
	require.NoError(t, err)
	require.Equal(t, "/usr/bin/varve", target)
	for _, file := range []string{"man/man1/varve.1", "man/man8/mount.fuse.varve.8", "bash-completion/completions/varve",
		"zsh/site-functions/_varve", "fish/vendor_completions.d/varve.fish"} {
		fi, err := os.Stat(filepath.Join(dest, "usr/share", file))
		require.NoError(t, err)
		require.NotZero(t, fi.Size(), file)
	}

	require.NoError(t, install("--remove"))
	require.Empty(t, files(t, dest))
	other := filepath.Join(dest, "usr/bin/fuse-overlayfs")
	require.NoError(t, os.WriteFile(other, []byte("another program"), 0o755))
	require.Error(t, install(testenv.Varve(t)), "it is not ours to replace")
	require.NoError(t, install("--remove"))
	require.Equal(t, []string{other}, files(t, dest))
}

// files lists all that is below dir but directories.
func files(t *testing.T, dir string) (list []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			list = append(list, path)
		}
		return err
	}))
	return list
}
