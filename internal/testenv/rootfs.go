package testenv

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Rootfs is a root file system in two shapes with the same content.
type Rootfs struct {
	Dir string // as a directory
	Tar string // as a tar file, owned by root inside
}

// Busybox makes a root file system of a static busybox: its applets as links in
// /bin, /etc with passwd, group, hostname and motd, and the usual empty
// directories. Every user may read it. It is removed when the test ends.
func Busybox(t testing.TB) Rootfs {
	t.Helper()
	busybox := Program(t, "busybox", "busybox-static")
	base := Dir(t)
	r := Rootfs{Dir: filepath.Join(base, "rootfs"), Tar: filepath.Join(base, "busybox.tar")}
	for _, dir := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "root", "usr/bin", "var/tmp", "home"} {
		require.NoError(t, os.MkdirAll(filepath.Join(r.Dir, dir), 0o755))
	}
	require.NoError(t, os.Chmod(filepath.Join(r.Dir, "tmp"), 0o777|os.ModeSticky))
	for name, text := range map[string]string{
		"passwd":   "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
		"group":    "root:x:0:\nnogroup:x:65534:\n",
		"hostname": "busybox\n",
		"motd":     "a small root\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(r.Dir, "etc", name), []byte(text), 0o644))
	}
	require.NoError(t, copyFile(busybox, filepath.Join(r.Dir, "bin/busybox")))
	for _, applet := range applets(t, busybox) {
		require.NoError(t, os.Symlink("busybox", filepath.Join(r.Dir, "bin", applet)))
	}
	tool(t, "tar", "--create", "--file", r.Tar, "--directory", r.Dir, "--sort=name",
		"--owner=0", "--group=0", "--numeric-owner", ".")
	return r
}

// applets lists the names that this busybox answers to, except its own.
func applets(t testing.TB, busybox string) []string {
	t.Helper()
	out, err := exec.Command(busybox, "--list").Output()
	require.NoError(t, err)
	var list []string
	for _, name := range strings.Fields(string(out)) {
		if name != "busybox" {
			list = append(list, name)
		}
	}
	require.Contains(t, list, "sh", "the applets of %s", busybox)
	return list
}

// Debian returns the path of a tar of a real Debian root file system, variant
// minbase with these packages, made by mmdebstrap once (about 30 s) and kept in
// [CacheDir]. The test
// is skipped where mmdebstrap is missing or cannot reach an archive. Another
// user may not be able to read it: see [User.Give], or pass it as stdin.
func Debian(t testing.TB, packages ...string) string {
	t.Helper()
	path := filepath.Join(CacheDir(t), strings.Join(append([]string{"debian-bookworm-minbase"}, packages...), "-")+".tar")
	unlock, err := lock(path + ".lock")
	require.NoError(t, err)
	defer func() { require.NoError(t, unlock()) }()
	if _, err := os.Stat(path); err == nil {
		return path
	}
	Program(t, "mmdebstrap", "mmdebstrap")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	fresh := filepath.Join(filepath.Dir(path), "fresh.tar")
	args := []string{"--variant=minbase", "bookworm", fresh}
	if len(packages) > 0 {
		args = append([]string{"--include=" + strings.Join(packages, ",")}, args...)
	}
	out, err := exec.CommandContext(ctx, "mmdebstrap", args...).CombinedOutput()
	if err != nil && strings.Contains(string(out), "apt-get update") {
		t.Skipf("needs a Debian archive: %v: %s", err, lastLine(out))
	}
	require.NoError(t, err, "%s", out)
	require.NoError(t, os.Rename(fresh, path))
	return path
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

// copyFile copies content and permission bits; target must not exist.
func copyFile(source, target string) (err error) {
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // only read
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode().Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close() // the first error tells
		return fmt.Errorf("copy %s: %w", source, err)
	}
	return out.Close()
}
