package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

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

// closer is a script of root's that closes user namespaces, and what the doctor and a run say.
type closer struct {
	says, mend string
	script     string // it executes "$@"
}

// inNamespace is a script that runs in a user namespace, whose limits are its own.
func inNamespace(script string) string {
	return `export script='` + script + `'; exec unshare --user --map-root-user sh -ec "$script" sh "$@"`
}

// powerless makes a root of a namespace an ordinary user.
const powerless = ` setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin "$@"`

// settings puts a file with a value among the settings of the kernel, and closes user namespaces by
// what needs no setting: in a chroot there are none.
func settings(name, value string) string {
	return `mount -t tmpfs tmpfs /proc/sys/kernel; echo ` + value + ` >/proc/sys/kernel/` + name + `
mount --rbind / "$NEWROOT"; chroot "$NEWROOT"` + powerless
}

// TestNoUserNamespaces: who can not have one is told by what, and how to open it. Each is
// closed for real, by a limit, a chroot or a filter of system calls; settings that this
// kernel does not have are there to be read.
func TestNoUserNamespaces(t *testing.T) {
	testenv.Root(t)
	dir := testenv.Dir(t)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "root"), 0o755))
	for name, c := range map[string]closer{
		"none may be made": {"user.max_user_namespaces = 0", "sudo sysctl -w user.max_user_namespaces=15000",
			inNamespace(`echo 0 >/proc/sys/user/max_user_namespaces; exec` + powerless)},
		"all are in use": {"as many are in use as you may have (user.max_user_namespaces = 1 here, or less in an outer namespace)", "sudo sysctl -w user.max_user_namespaces=15000",
			inNamespace(`echo 1 >/proc/sys/user/max_user_namespaces; mkfifo "$FIFO"; unshare --user sh -c "exec 3<$FIFO; read line <&3" & exec 4>"$FIFO"; code=0;` + powerless + ` 4>&- || code=$?; exec 4>&-; wait; rm "$FIFO"; exit $code`)},
		"all of an outer one are": {"as many are in use as you may have (user.max_user_namespaces = 1000000 here, or less in an outer namespace)", "sudo sysctl -w user.max_user_namespaces=2000000",
			inNamespace(`echo 1 >/proc/sys/user/max_user_namespaces; exec unshare --user --map-root-user sh -ec "echo 1000000 >/proc/sys/user/max_user_namespaces; exec \"\$@\"" sh` + powerless)},
		"Debian's setting": {"kernel.unprivileged_userns_clone = 0", "sudo sysctl -w kernel.unprivileged_userns_clone=1",
			settings("unprivileged_userns_clone", "0")},
		"Ubuntu's setting": {"kernel.apparmor_restrict_unprivileged_userns = 1", "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
			settings("apparmor_restrict_unprivileged_userns", "1")},
		"something else": {"this machine does not let you make them (is this inside a container, or a chroot?), and only root needs none", "sudo varve …",
			settings("apparmor_restrict_unprivileged_userns", "0")},
	} {
		t.Run(name, func(t *testing.T) {
			closed := func(args ...string) (string, int) {
				line := []string{"--mount", "--propagation", "private", "sh", "-ec", c.script, "sh", testenv.Varve(t), "--root", filepath.Join(dir, "store")}
				cmd := exec.CommandContext(t.Context(), "unshare", append(line, args...)...)
				cmd.Env = append(os.Environ(), "FIFO="+filepath.Join(dir, "fifo"), "NEWROOT="+filepath.Join(dir, "root"))
				out, err := cmd.CombinedOutput()
				return string(out), exitCode(t, err)
			}
			out, code := closed("import", testenv.Busybox(t).Tar, "small:1")
			require.NotZero(t, code)
			require.Contains(t, out, "user namespaces are closed to you: "+c.says+": "+c.mend+"\n")
			out, code = closed("run", "--rm", "host", "true")
			require.Equal(t, 125, code)
			require.Contains(t, out, ": "+c.mend+"\n")
			out, code = closed("doctor")
			require.Zero(t, code)
			require.Regexp(t, `(?m)^user namespaces +missing +`+regexp.QuoteMeta(c.says)+` .*  `+regexp.QuoteMeta(c.mend)+`$`, out)
		})
	}
}

// TestNoUserNamespacesInside: the filter of system calls of a container is no setting of the
// kernel's.
func TestNoUserNamespacesInside(t *testing.T) {
	eachPoorUser(t, func(t *testing.T, h *home) {
		if h.user != nil && !h.user.Ranged {
			t.Skip("with a single id nobody in a container is an ordinary user")
		}
		out := h.ok(t, "run", "--rm", "-u", "1000", "-v", h.bin+":/varve:ro", "small:1", "/varve", "--root", "/tmp/store", "doctor")
		require.Regexp(t, `(?m)^user namespaces +missing +a filter of system calls refuses them, .*  docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined …$`, out)
	})
}

// onOverlay puts an overlayfs over the store, which the kernel takes for the upper of no
// other one: so it is in a container without volumes.
func (h *home) onOverlay(t *testing.T) {
	t.Helper()
	work, empty := h.root+".work", h.root+".empty"
	for _, dir := range []string{work, empty} {
		require.NoError(t, os.Mkdir(dir, 0o700))
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,index=off,metacopy=off,redirect_dir=off", empty, h.root, work)
	require.NoError(t, unix.Mount("overlay", h.root, "overlay", 0, options))
	t.Cleanup(func() {
		require.NoError(t, unix.Unmount(h.root, unix.MNT_DETACH))
		require.NoError(t, errors.Join(os.RemoveAll(work), os.RemoveAll(empty)))
	})
}

// leftovers are what is in the directories of containers for the time of a copy.
func (h *home) leftovers(t *testing.T) (found []string) {
	t.Helper()
	for _, name := range []string{"copy", "copy.*", "upper.new"} {
		list, err := filepath.Glob(filepath.Join(h.root, "containers", "*", name))
		require.NoError(t, err)
		found = append(found, list...)
	}
	return found
}

// meddle changes an image in all ways that an upper tells apart.
const meddle = `rm /bin/true; mkdir /new; echo kept >/new/file; chown 33:44 /new/file; chmod 4750 /new/file
chown 5:6 /bin/busybox; rm -r /old; mkdir /old; chown 7:8 /old; chown 0:0 /old
mv /dir /moved; rm /dir2/f; echo changed >/dir2/g; rm -r /file; mkdir /file; echo in >/file/in
rm -r /dir3; echo plain >/dir3; ln /new/file /new/second; ln /one /three; ln -s nowhere /link; mkfifo /fifo
truncate -s 3M /holes; touch -d @1000000000 /new/second`

// TestNoView: where overlayfs can not take the place of a view either, containers stand on a
// copy, and what they change is in their upper afterwards, whatever ends them.
func TestNoView(t *testing.T) {
	eachPoorUser(t, func(t *testing.T, h *home) {
		h.onOverlay(t)
		h.ok(t, "run", "--name", "base", "small:1", "sh", "-ec",
			"mkdir /old /dir /dir2 /dir3; touch /old/gone; echo f >/dir/f; echo f >/dir2/f; echo g >/dir2/g; echo f >/dir3/f; echo f >/file; echo 1 >/one; ln /one /two; ln /bin/busybox /bin/second")
		h.ok(t, "commit", "base", "base:1")
		h.ok(t, "rm", "base")
		defer h.ok(t, "rmi", "base:1")

		out := h.manage(t, emptyDev, "run", "--name", "poor", "base:1", "sh", "-ec", meddle)
		require.Regexp(t, `^varve: warning: there is no /dev/fuse, and the kernel's overlayfs can not take its place \([^\n]+\): `+
			`the container stands on a copy of its files, and each start copies them, [0-9.]+MB in [0-9]+ files; `+
			`as root, "modprobe fuse; chmod 0666 /dev/fuse" ends that\n$`, out)
		require.Empty(t, h.leftovers(t))
		h.ok(t, "run", "--name", "rich", "base:1", "sh", "-ec", meddle)
		require.Equal(t, h.ok(t, "diff", "rich"), h.manage(t, emptyDev, "diff", "poor"))
		for _, name := range []string{"rich", "poor"} {
			h.manage(t, emptyDev, "commit", name, name+":1")
			defer h.ok(t, "rmi", name+":1")
		}
		rich, poor := savedOwners(t, h, "rich:1"), savedOwners(t, h, "poor:1")
		require.Equal(t, rich, poor)
		require.Equal(t, [2]int{33, 44}, poor["new/file"])
		require.Equal(t, [2]int{5, 6}, poor["bin/busybox"])
		require.NotContains(t, poor, "bin/true")
		// A directory that was made again hides all below it, or, where that is not known, each name.
		require.Equal(t, strings.ReplaceAll(layerNames(t, h, "rich:1"), "old/.wh..wh..opq", "old/.wh.gone"), layerNames(t, h, "poor:1"))

		const look = `cat /new/file /dir2/g /file/in /dir3 /moved/f /three; stat -c "%a %h" /new/second /one /fifo; stat -c %b /holes; readlink /link; ls /old / /dir2`
		h.ok(t, "rm", "rich")
		seen := h.ok(t, "run", "--rm", "rich:1", "sh", "-ec", look)
		require.Equal(t, seen, h.ok(t, "run", "--rm", "poor:1", "sh", "-ec", look))
		out = h.manage(t, emptyDev, "run", "--rm", "poor:1", "sh", "-ec", look)
		_, out, _ = strings.Cut(out, "ends that\n")
		if h.user != nil && !h.user.Ranged { // the bit would make programs of this user's, for all who reach them
			seen = strings.Replace(seen, "4750 2\n", "750 2\n", 1)
		}
		require.Equal(t, seen, out)
		h.ok(t, "rm", "poor")
		require.Contains(t, h.ok(t, "system", "check"), "0 problems")
	})
}

// layerNames are the names in the topmost layer of an image's archive, sorted.
func layerNames(t *testing.T, h *home, image string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "sh", "-ec",
		`cd "$0"; tar x; for layer in $(tr -d ' "\n' <manifest.json | sed 's/.*Layers:\[//; s/\].*//; s/,/ /g'); do last=$layer; done; tar tf "$last" | LC_ALL=C sort`, dir)
	cmd.Stdin = strings.NewReader(h.ok(t, "save", image))
	out, err := cmd.Output()
	require.NoError(t, err)
	return string(out)
}

// TestNoViewLife: all verbs find what a container that runs on a copy changes, a supervisor
// that is killed loses nothing, and views and copies follow one another.
func TestNoViewLife(t *testing.T) {
	eachPoorUser(t, func(t *testing.T, h *home) {
		h.onOverlay(t)
		poor := func(args ...string) string { t.Helper(); return h.manage(t, emptyDev, args...) }
		local := filepath.Join(filepath.Dir(h.root), "local")

		require.Contains(t, poor("run", "-d", "--name", "long", "small:1", "sh", "-c", "while sleep 600; do :; done"), "warning: ")
		poor("exec", "long", "sh", "-ec", "echo 12345 >/five; rm /bin/true; mkdir /d; echo in >/d/in; chown 33:44 /d/in")
		require.Equal(t, "A /d\nA /d/in\nA /five\nC /bin\nD /bin/true\n", sortedLines(poor("diff", "long")))
		require.Regexp(t, `(?m)^long +9B \(virtual `, poor("ps", "-a", "-s", "--format", "table {{.Names}}\t{{.Size}}"))
		poor("cp", "long:/five", local)
		raw, err := os.ReadFile(local)
		require.NoError(t, err)
		require.Equal(t, "12345\n", string(raw))
		poor("cp", local, "long:/copied")
		poor("commit", "long", "running:1")
		poor("commit", "--pause=false", "long", "running:2")
		defer h.ok(t, "rmi", "running:1", "running:2")
		require.Equal(t, layerNames(t, h, "running:1"), layerNames(t, h, "running:2"))
		require.Equal(t, [2]int{33, 44}, savedOwners(t, h, "running:1")["d/in"])
		require.Contains(t, tarOwners(t, poor("export", "long")), "copied")
		require.NotEmpty(t, h.leftovers(t), "it runs")

		require.NoError(t, unix.Kill(h.state(t).Supervisor.Pid, unix.SIGKILL))
		testenv.Eventually(t, "the container ends", func() bool {
			return poor("ps", "-q", "--filter", "status=running") == ""
		})
		require.Equal(t, "A /copied\nA /d\nA /d/in\nA /five\nC /bin\nD /bin/true\n", sortedLines(poor("diff", "long")))
		require.Empty(t, h.leftovers(t), "who looked has made the upper")

		h.ok(t, "start", "long") // by FUSE
		require.Equal(t, "12345\n", h.ok(t, "exec", "long", "cat", "/copied"))
		h.ok(t, "exec", "long", "sh", "-ec", "rm /copied; echo 6 >>/five")
		h.ok(t, "stop", "-t", "0", "long")
		poor("start", "long")
		require.Equal(t, "12345\n6\n", poor("exec", "long", "sh", "-c", "cat /five /copied 2>&-; true"))
		poor("exec", "long", "sh", "-ec", "rm /five")
		poor("stop", "-t", "0", "long")
		require.Empty(t, h.leftovers(t))
		poor("cp", local, "long:/d/local") // in one that has ended
		require.Empty(t, h.leftovers(t))
		require.Equal(t, "A /d\nA /d/in\nA /d/local\nC /bin\nD /bin/true\n", sortedLines(h.ok(t, "diff", "long")))
		require.Equal(t, [2]int{33, 44}, tarOwners(t, h.ok(t, "export", "long"))["d/in"])

		poor("start", "long")
		require.NoError(t, unix.Kill(h.state(t).Supervisor.Pid, unix.SIGKILL))
		poor("rm", "-f", "long") // with its copy
		out, code := h.without(t, emptyDev, "run", "--rm", "host", "true")
		require.Equal(t, 125, code)
		require.Contains(t, out, "this machine's own files are not copied")
		require.Contains(t, h.ok(t, "system", "check"), "0 problems")
	})
}
