package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// endless is a cp that waits for more of its stdin, with all that was given to it so far.
func (h *home) endless(t *testing.T, name string, archive []byte) (cmd *exec.Cmd, stdin io.WriteCloser, said *bytes.Buffer) {
	t.Helper()
	cmd = h.command(t.Context(), "cp", "-", name+":/in")
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	said = &bytes.Buffer{}
	cmd.Stderr = said
	require.NoError(t, cmd.Start())
	_, err = stdin.Write(archive)
	require.NoError(t, err)
	return cmd, stdin, said
}

// TestKilledCopy: whoever of those at work on a copy is killed, the others end, too, and the
// container is as it was but for the files that have come.
func TestKilledCopy(t *testing.T) {
	eachUser(t, func(t *testing.T, h *home) {
		h.ok(t, "run", "-d", "--name", "up", "small:1", "sh", "-c", "mkdir /in /big; head -c 3000000 /dev/zero > /big/zeros; echo ready; sleep 1000")
		testenv.Eventually(t, "it is ready", func() bool { out, _ := h.run(t, "logs", "up"); return out == "ready\n" })
		archive := []byte(h.ok(t, "cp", "up:/big", "-"))[:500_000]
		there := func() bool {
			_, code := h.run(t, "cp", "up:/in/big/zeros", "-")
			return code == 0
		}

		// The verb.
		for _, name := range []string{"up", "stopped"} {
			if name == "stopped" {
				h.ok(t, "stop", "-t", "0", "up")
				h.ok(t, "rename", "up", "stopped")
			}
			cmd, _, _ := h.endless(t, name, archive)
			if name == "up" {
				testenv.Eventually(t, "some of it has come", there)
				h.ok(t, "exec", "up", "rm", "-rf", "/in/big")
			} else { // its lock keeps others out
				file := filepath.Join(filepath.Dir(h.stateFile(t)), "upper/in/big/zeros")
				testenv.Eventually(t, "some of it has come", func() bool { _, err := os.Lstat(file); return err == nil })
			}
			require.NoError(t, cmd.Process.Kill())
			_ = cmd.Wait() // killed
		}
		h.ok(t, "start", "stopped") // which waits until the view is not mounted any more
		h.ok(t, "exec", "stopped", "test", "-e", "/in/big/zeros")
		h.ok(t, "rename", "stopped", "up")

		// The container, by its own verb, and its supervisor.
		for _, kill := range []func(){
			func() { h.ok(t, "kill", "up") },
			func() {
				require.NoError(t, unix.Kill(h.state(t).Supervisor.Pid, unix.SIGKILL))
			},
		} {
			h.ok(t, "exec", "up", "rm", "-rf", "/in/big")
			cmd, stdin, said := h.endless(t, "up", archive)
			testenv.Eventually(t, "some of it has come", there)
			kill()
			_, _ = stdin.Write(archive) // so that it hears of it, if it has not
			require.Equal(t, 1, exitCode(t, cmd.Wait()))
			require.NotEmpty(t, said.String())
			h.ok(t, "start", "up")
		}
		h.ok(t, "rm", "-f", "up")
	})
}

// TestCopyKeepsOwners: what root takes out with -a has its owners and rights, and nothing
// else has.
func TestCopyKeepsOwners(t *testing.T) {
	testenv.FUSE(t)
	testenv.Root(t)
	h := newHome(t, nil)
	h.ok(t, "run", "-d", "--name", "up", "small:1", "sh", "-c", "cp /bin/busybox /suid; chown 12:34 /suid; chmod 4755 /suid; mknod /null c 1 3; mkdir /d; mv /suid /null /d; echo ready; sleep 1000")
	testenv.Eventually(t, "it is ready", func() bool { out, _ := h.run(t, "logs", "up"); return out == "ready\n" })
	dir := testenv.Dir(t)
	said := h.ok(t, "cp", "up:/d", filepath.Join(dir, "plain"))
	require.Contains(t, said, "1 device files were left out")
	require.NoFileExists(t, filepath.Join(dir, "plain/null"))
	info, err := os.Stat(filepath.Join(dir, "plain/suid"))
	require.NoError(t, err)
	require.Zero(t, info.Mode()&os.ModeSetuid)
	h.ok(t, "cp", "-a", "up:/d", filepath.Join(dir, "kept"))
	info, err = os.Stat(filepath.Join(dir, "kept/suid"))
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&os.ModeSetuid)
	out, err := exec.Command("stat", "-c", "%u:%g", filepath.Join(dir, "kept/suid")).Output()
	require.NoError(t, err)
	require.Equal(t, "12:34\n", string(out))
	info, err = os.Stat(filepath.Join(dir, "kept/null"))
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&os.ModeCharDevice)
	h.ok(t, "rm", "-f", "up")
}
