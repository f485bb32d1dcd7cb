package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
)

// without runs a verb as the user of h in a mount namespace of its own, where a script of
// root's has taken something away. It returns what was printed, and the exit code.
func (h *home) without(t *testing.T, takeAway string, args ...string) (string, int) {
	t.Helper()
	line := []string{"--mount", "--propagation", "private", "sh", "-ec", takeAway + `; exec "$@"`, "sh"}
	if h.user != nil {
		line = append(line, "setpriv", "--reuid", strconv.Itoa(h.user.UID), "--regid", strconv.Itoa(h.user.GID), "--init-groups", "--")
	}
	line = append(line, "env", "-i", "PATH="+os.Getenv("PATH"), "HOME="+filepath.Dir(h.root), h.bin, "--root", h.root)
	cmd := exec.CommandContext(t.Context(), "unshare", append(line, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), exitCode(t, err)
}

// manage is without, for what works all the same.
func (h *home) manage(t *testing.T, takeAway string, args ...string) string {
	t.Helper()
	out, code := h.without(t, takeAway, args...)
	require.Zero(t, code, "varve %s: %s", strings.Join(args, " "), out)
	return out
}

// emptyDev puts a /dev without FUSE and tun in the place of this machine's.
const emptyDev = `dir=$(mktemp -d)
mount -t tmpfs -o mode=755 tmpfs "$dir"
for node in null zero full random urandom tty; do : >"$dir/$node"; mount --bind /dev/$node "$dir/$node"; done
mkdir "$dir/pts" "$dir/shm"
mount --bind /dev/pts "$dir/pts"
ln -s pts/ptmx "$dir/ptmx"
ln -s /proc/self/fd "$dir/fd"
mount --rbind "$dir" /dev
umount -l "$dir"
rmdir "$dir"`

// hide is a script that puts an empty file in the place of each.
func hide(files ...string) string {
	return "for file in " + strings.Join(files, " ") + "; do mount --bind /dev/null $file; done"
}

// eachPoorUser runs a test that takes something away, as root and as ordinary users.
func eachPoorUser(t *testing.T, test func(*testing.T, *home)) {
	testenv.Root(t)
	eachUser(t, test)
}

// TestNoFUSE: the kernel's overlayfs takes the place of the view, and what was done is kept,
// and found again where there is FUSE.
func TestNoFUSE(t *testing.T) {
	if list, err := os.ReadFile("/proc/filesystems"); err != nil || !strings.Contains(string(list), "\toverlay\n") {
		t.Skip("needs the kernel's overlayfs: run `modprobe overlay` as root")
	}
	eachPoorUser(t, func(t *testing.T, h *home) {
		require.Regexp(t, `(?m)^/dev/fuse +missing .*sudo sh -c 'modprobe fuse; chmod 0666 /dev/fuse'$`, h.manage(t, emptyDev, "doctor"))
		h.ok(t, "run", "--name", "base", "small:1", "sh", "-ec", "mkdir /old; touch /old/gone")
		h.ok(t, "commit", "base", "base:1")
		h.ok(t, "rm", "base")
		defer h.ok(t, "rmi", "base:1")
		h.manage(t, emptyDev, "run", "--name", "poor", "base:1", "sh", "-ec",
			"rm /bin/true; mkdir /new; echo kept >/new/file; chown 33:44 /new/file; chmod 4750 /new/file; chown 5:6 /bin/busybox; rm -r /old; mkdir /old; chown 7:8 /old; chown 0:0 /old")
		require.Equal(t, "A /new\nA /new/file\nC /bin\nC /bin/busybox\nC /old\nD /bin/true\nD /old/gone\n", sortedLines(h.manage(t, emptyDev, "diff", "poor")))
		h.manage(t, emptyDev, "commit", "poor", "poor:1")
		require.Equal(t, "kept\n", h.manage(t, emptyDev, "run", "--rm", "poor:1", "cat", "/new/file"))

		h.ok(t, "start", "poor") // by FUSE now: it fails where the script has been
		h.ok(t, "wait", "poor")
		defer h.ok(t, "rmi", "poor:1")
		for _, list := range []map[string][2]int{tarOwners(t, h.ok(t, "export", "poor")), savedOwners(t, h, "poor:1")} {
			require.Equal(t, [2]int{33, 44}, list["new/file"])
			require.Equal(t, [2]int{5, 6}, list["bin/busybox"])
			require.Equal(t, [2]int{0, 0}, list["old/"])
			require.NotContains(t, list, "bin/true")
			require.NotContains(t, list, "old/gone")
		}
		require.Equal(t, "4750\n", h.ok(t, "run", "--rm", "poor:1", "stat", "-c", "%a", "/new/file"))
		h.ok(t, "rm", "poor")

		h.manage(t, emptyDev, "run", "-d", "--name", "background", "small:1", "sleep", "600")
		out, code := h.without(t, emptyDev, "run", "--rm", "host", "true")
		require.Equal(t, 125, code)
		require.Contains(t, out, `"modprobe fuse" as root; and the kernel's overlayfs can not take its place: it can not show this machine's own files`)
		h.ok(t, "exec", "background", "sh", "-c", "echo more >/more")
		h.ok(t, "cp", "background:/more", filepath.Join(filepath.Dir(h.root), "more"))
		h.ok(t, "rm", "-f", "background")
		require.Contains(t, h.ok(t, "system", "check"), "0 problems")
	})
}

// sortedLines has the lines of a text in their order.
func sortedLines(text string) string {
	out, err := exec.CommandContext(context.Background(), "sh", "-c", `printf %s "$0" | LC_ALL=C sort`, text).Output()
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// savedOwners is tarOwners of a container of an image.
func savedOwners(t *testing.T, h *home, image string) map[string][2]int {
	t.Helper()
	h.ok(t, "create", "--name", "whole", image, "true")
	defer h.ok(t, "rm", "whole")
	return tarOwners(t, h.ok(t, "export", "whole"))
}

// TestNoHelpers: without newuidmap, or without a range, there is a single id.
func TestNoHelpers(t *testing.T) {
	testenv.FUSE(t)
	testenv.Root(t)
	u := testenv.Ranged(t)
	helper, other := testenv.Program(t, "newuidmap", "uidmap"), testenv.Program(t, "newgidmap", "uidmap")
	for name, c := range map[string]struct{ takeAway, mend string }{
		"newuidmap": {hide(helper, other), "newuidmap and newgidmap are not installed .* sudo apt-get install uidmap"},
		"a range": {hide("/etc/subuid", "/etc/subgid"), "/etc/subuid and /etc/subgid grant no ids to " + u.Name +
			" .* sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 " + u.Name},
	} {
		t.Run(name, func(t *testing.T) {
			testenv.CheckLeaks(t)
			h := &home{bin: u.Give(t, testenv.Varve(t)), root: filepath.Join(u.Dir(t), "store"), user: &u}
			require.Regexp(t, `(?m)^subordinate ids +missing +`+c.mend+`$`, h.manage(t, c.takeAway, "doctor"))
			h.manage(t, c.takeAway, "import", testenv.Busybox(t).Tar, "small:1")
			out := h.manage(t, c.takeAway, "run", "--rm", "small:1", "sh", "-ec", "touch /x; chown 33 /x; cat /proc/self/uid_map")
			require.Regexp(t, `^ +0 +`+strconv.Itoa(u.UID)+` +1\n$`, out)
			h.manage(t, c.takeAway, "rmi", "small:1")
		})
	}
}

// TestNoGroups: where no control group can be made limits are warned of.
func TestNoGroups(t *testing.T) {
	eachPoorUser(t, func(t *testing.T, h *home) {
		takeAway := "mount -t tmpfs -o ro tmpfs /sys/fs/cgroup"
		mend := `systemd-run --user --scope -p Delegate=yes varve run …`
		if h.user == nil {
			mend = `mount -o remount,rw /sys/fs/cgroup`
		}
		require.Regexp(t, `(?m)^control groups +missing .*  `+mend+`$`, h.manage(t, takeAway, "doctor"))
		out := h.manage(t, takeAway, "run", "--rm", "-m", "64m", "small:1", "echo", "ran")
		require.Contains(t, out, "ran\n")
		require.Contains(t, out, "varve: warning: ")
	})
}

// TestNoTun: nothing needs it yet; the doctor says how to have it.
func TestNoTun(t *testing.T) {
	eachPoorUser(t, func(t *testing.T, h *home) {
		out := h.manage(t, emptyDev, "doctor")
		require.Regexp(t, `(?m)^/dev/net/tun +missing .*sudo sh -c 'modprobe tun; chmod 0666 /dev/net/tun'$`, out)
	})
}

// TestNoUserNamespaces: who can not have one is told by what, and how to open it.
func TestNoUserNamespaces(t *testing.T) {
	testenv.Root(t)
	dir := testenv.Dir(t)
	closed := func(args ...string) (string, int) {
		// The limit is that of a namespace in which the process is no root any more.
		line := []string{"--user", "--map-root-user", "sh", "-ec", `echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"`, "sh",
			"setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", testenv.Varve(t), "--root", filepath.Join(dir, "store")}
		out, err := exec.CommandContext(t.Context(), "unshare", append(line, args...)...).CombinedOutput()
		return string(out), exitCode(t, err)
	}
	out, code := closed("import", testenv.Busybox(t).Tar, "small:1")
	require.NotZero(t, code)
	require.Contains(t, out, "user namespaces are closed to you by /proc/sys/user/max_user_namespaces = 0; as root: sysctl -w user.max_user_namespaces=15000")
	out, code = closed("run", "--rm", "host", "true")
	require.Equal(t, 125, code)
	require.Contains(t, out, "as root: sysctl -w user.max_user_namespaces=15000")
	out, code = closed("doctor")
	require.Zero(t, code)
	require.Regexp(t, `(?m)^user namespaces +missing +user.max_user_namespaces = 0 .*  sudo sysctl -w user.max_user_namespaces=15000$`, out)
}
