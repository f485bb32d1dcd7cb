package main

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// TestFaceStats: the other names serve figures, too, also to an ordinary user; a
// killed server leaves a socket that is replaced.
func TestFaceStats(t *testing.T) {
	asUsers(t, "fuse-overlayfs", func(t *testing.T, s *stack) {
		pid := s.mount(readWrite + ",stats=socket")
		s.shell("cat merged/both; echo x >> merged/low; ls merged >/dev/null")
		stdout, stderr, code := s.run(testenv.Varve(t), "mount", "--stats", "merged", "--format", "{{.PID}} {{.CopyUps.Count}}")
		require.Zero(t, code, stderr)
		require.Equal(t, fmt.Sprintf("%d 1\n", pid), stdout)
		require.NoError(t, unix.Kill(pid, unix.SIGKILL))
		testenv.Eventually(t, "it has ended", func() bool { return len(s.servers()) == 0 })
		s.shell("fusermount3 -u merged")
		_, stderr, code = s.run(testenv.Varve(t), "mount", "--stats", "socket")
		require.Equal(t, 1, code)
		require.Contains(t, stderr, "its server is gone")
		s.mount(readWrite + ",stats=socket")
		s.shell("fusermount3 -u merged")
		s.gone()
		require.NoFileExists(t, s.path("socket"))
	})
}

// TestFaceDebug: -d stays in front and logs each request and its answer.
func TestFaceDebug(t *testing.T) {
	asUsers(t, "fuse-overlayfs", func(t *testing.T, s *stack) {
		for _, call := range [][]string{{s.face, "-d"}, {testenv.Varve(t), "mount", "-d", "-f"}} {
			var log bytes.Buffer
			cmd := s.command(call[0], append(call[1:], "-o", readWrite, "merged")...)
			cmd.Stderr = &log
			require.NoError(t, cmd.Start())
			testenv.Eventually(t, "it is mounted", func() bool { return s.mounted() != "" })
			_, _, code := s.run("ls", "merged/absent")
			require.NotZero(t, code)
			s.shell("mkdir merged/made")
			testenv.Eventually(t, "the server has looked at its mount itself, and it is unmounted", func() bool {
				_, _, code := s.run("fusermount3", "-u", "merged")
				return code == 0
			})
			require.NoError(t, cmd.Wait())
			// The time, the direction, a number that joins the two, the name and what it is about.
			require.Regexp(t, `(?m)^\d\d:\d\d:\d\d\.\d{6} rx \d+: LOOKUP n1 .*"absent"`, log.String())
			require.Regexp(t, `(?m)^\d\d:\d\d:\d\d\.\d{6} rx \d+: MKDIR n1 .*"made"`, log.String())
			require.Regexp(t, `(?m)^\d\d:\d\d:\d\d\.\d{6} tx \d+: +OK`, log.String())
			s.gone()
			s.shell("rmdir up/made")
		}
	})
}
