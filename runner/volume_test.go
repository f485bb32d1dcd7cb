package runner

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func withMounts(cfg Config, mounts ...Mount) Config {
	cfg.Mounts = mounts
	return cfg
}

func TestVolume(t *testing.T) {
	needRoot(t)
	root, host := busyboxRoot(t), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(host, "in"), []byte("from the host\n"), 0o644))
	text, code := output(t, withMounts(sh(root, "cat /a/b/in; echo from inside > /a/b/out"),
		Mount{Source: host, Target: "/a/b"}))
	require.Zero(t, code)
	require.Equal(t, "from the host\n", text)
	data, err := os.ReadFile(filepath.Join(host, "out"))
	require.NoError(t, err)
	require.Equal(t, "from inside\n", string(data))
	entries, err := os.ReadDir(filepath.Join(root, "a/b"))
	require.NoError(t, err)
	require.Empty(t, entries, "the mount point was made, the mount is gone")
}

func TestVolumeOfAFile(t *testing.T) {
	needRoot(t)
	root, host := busyboxRoot(t), filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(host, []byte("old\n"), 0o644))
	text, code := output(t, withMounts(sh(root, "cat /new/file /etc/passwd; echo new > /new/file"),
		Mount{Source: host, Target: "/new/file"}, Mount{Source: host, Target: "/etc/passwd", ReadOnly: true}))
	require.Zero(t, code, text)
	require.Equal(t, "old\nold\n", text)
	data, err := os.ReadFile(host)
	require.NoError(t, err)
	require.Equal(t, "new\n", string(data))
}

func TestReadOnlyVolume(t *testing.T) {
	needRoot(t)
	root, host := busyboxRoot(t), t.TempDir()
	// Something mounted below it has to be read-only, too.
	below := filepath.Join(host, "below")
	require.NoError(t, os.Mkdir(below, 0o755))
	require.NoError(t, unix.Mount("tmpfs", below, "tmpfs", 0, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(below, 0)) })
	text, code := output(t, withMounts(sh(root, "for f in /v/x /v/below/x; do touch $f || echo refused; done 2>&1"),
		Mount{Source: host, Target: "/v", ReadOnly: true}))
	require.Zero(t, code)
	require.Equal(t, "touch: /v/x: Read-only file system\nrefused\ntouch: /v/below/x: Read-only file system\nrefused\n", text)
	require.NoFileExists(t, filepath.Join(host, "x"))
	require.NoError(t, os.WriteFile(filepath.Join(host, "x"), nil, 0o644), "the host may still write")
}

func TestVolumesInVolumes(t *testing.T) {
	needRoot(t)
	outer, inner := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(outer, "o"), nil, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(inner, "i"), nil, 0o644))
	text, _ := output(t, withMounts(sh(busyboxRoot(t), "ls /v /v/deep/er"),
		Mount{Source: inner, Target: "/v/deep/er"}, Mount{Source: outer, Target: "/v"}))
	require.Equal(t, "/v:\ndeep\no\n\n/v/deep/er:\ni\n", text)
}

func TestVolumesThatAreRefused(t *testing.T) {
	needRoot(t)
	root, host := busyboxRoot(t), t.TempDir()
	file := filepath.Join(host, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o644))
	require.NoError(t, os.Symlink("/nowhere", filepath.Join(root, "dangling")))
	require.NoError(t, os.Symlink("/proc/sys/kernel", filepath.Join(root, "kernel")))
	require.NoError(t, os.Symlink("/proc/self/root", filepath.Join(root, "magic")))
	require.NoError(t, os.Symlink("/proc/1/fd", filepath.Join(root, "fds")))
	for _, c := range []struct{ source, target, says string }{
		{"/no/such/thing", "/x", "volume source path does not exist: /no/such/thing"},
		{host, "/bin/busybox", "are you trying to mount a directory onto a file"},
		{file, "/etc", "are you trying to mount a directory onto a file"},
		{host, "/dangling", "dangling"},
		{host, "/proc", "inside /proc"},
		{host, "/proc/sys", "inside /proc"},
		{host, "/kernel", "inside /proc"},
		{file, "/kernel/core_pattern", "inside /proc"},
		{host, "/magic", "too many levels of symbolic links"},
		{host, "/magic/x", "too many levels of symbolic links"},
		{host, "/proc/self/fd/7/x", ""},
		{host, "/fds/7/x", ""},
	} {
		_, err := Start(withMounts(sh(root, "true"), Mount{Source: c.source, Target: c.target}))
		require.ErrorContains(t, err, c.says, c.target)
		require.NotErrorIs(t, err, ErrNotFound)
	}
}

func TestRootOnABindMount(t *testing.T) {
	needRoot(t)
	plain, mounted := busyboxRoot(t), t.TempDir()
	require.NoError(t, unix.Mount(plain, mounted, "", unix.MS_BIND, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(mounted, 0)) })
	_, code := output(t, sh(mounted, "touch /made"))
	require.Zero(t, code)
	require.FileExists(t, filepath.Join(plain, "made"))
}
