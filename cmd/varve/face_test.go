package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

func TestFaceNames(t *testing.T) {
	for arg0, want := range map[string]string{
		"fuse-overlayfs": "fuse-overlayfs", "/usr/bin/fuse-overlayfs": "fuse-overlayfs", "/sbin/mount.fuse.varve": "mount.fuse.varve",
		"mount.varve": "mount.varve", "varve": "", "/usr/bin/varve": "", "": "",
	} {
		f, ok := faceOf(arg0)
		require.Equal(t, want != "", ok, arg0)
		require.Equal(t, want, f.name)
	}
}

func TestFaceCommandLines(t *testing.T) {
	overlay, _ := faceOf("fuse-overlayfs")
	helper, _ := faceOf("mount.fuse.varve")
	for line, want := range map[string]mountRequest{
		"-o lowerdir=a merged":           {target: "merged", options: []string{"lowerdir=a"}},
		"merged -o lowerdir=a":           {target: "merged", options: []string{"lowerdir=a"}},
		"-olowerdir=a -f src dst":        {source: "src", target: "dst", options: []string{"lowerdir=a"}, front: true},
		"-fo a -o b dst":                 {target: "dst", options: []string{"a", "b"}, front: true},
		"-d dst":                         {target: "dst", options: []string{"debug"}},
		"--debug -s src -- -dst":         {source: "src", target: "-dst", options: []string{"debug"}},
		"src dst -o lowerdir=a,dev,suid": {source: "src", target: "dst", options: []string{"lowerdir=a,dev,suid"}},
	} {
		r, err := overlay.parse(strings.Fields(line))
		require.NoError(t, err, line)
		require.Equal(t, faceRequest{mountRequest: want}, r, line)
	}
	r, err := helper.parse(strings.Fields("src dst -sfnv -N /proc/1/ns/mnt -o rw,lowerdir=a -t fuse.varve"))
	require.NoError(t, err)
	require.Equal(t, faceRequest{mountRequest: mountRequest{source: "src", target: "dst", options: []string{"rw,lowerdir=a"}}, fake: true}, r)
	for _, bad := range []string{"", "a b c", "-o", "-x dst", "--what dst", "-t x dst"} {
		_, err := overlay.parse(strings.Fields(bad))
		require.Error(t, err, bad)
	}
	_, err = helper.parse([]string{"only-one"})
	require.Error(t, err)
}

// stack is a union of directories that a face mounts, in a directory of its own,
// which is its working directory.
type stack struct {
	t    *testing.T
	dir  string
	face string // path of the binary under its other name
	user *testenv.User
}

// newStack makes two layers, an upper and a mount point for root or a user.
func newStack(t *testing.T, u *testenv.User, name string) *stack {
	t.Helper()
	testenv.FUSE(t)
	testenv.Program(t, "fusermount3", "fuse3")
	s := &stack{t: t, user: u, dir: testenv.Dir(t)}
	if u != nil {
		s.dir = u.Dir(t)
	}
	bin := filepath.Join(testenv.Dir(t), name)
	require.NoError(t, os.Symlink(testenv.Varve(t), bin))
	s.face = bin
	for _, d := range []string{"low", "top", "up", "work", "merged"} {
		require.NoError(t, os.Mkdir(s.path(d), 0o755))
	}
	s.write("low/low", "low")
	s.write("low/both", "low")
	s.write("top/both", "top")
	if u != nil && os.Geteuid() == 0 {
		require.NoError(t, exec.Command("chown", "-R", fmt.Sprintf("%d:%d", u.UID, u.GID), s.dir).Run())
	}
	t.Cleanup(s.end)
	return s
}

func (s *stack) path(name string) string { return filepath.Join(s.dir, name) }

func (s *stack) write(name, text string) {
	s.t.Helper()
	require.NoError(s.t, os.WriteFile(s.path(name), []byte(text), 0o644))
}

// command is a program run as the user in the stack's directory.
func (s *stack) command(name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	s.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	if s.user != nil {
		cmd = s.user.Command(ctx, name, args...)
	}
	cmd.Dir = s.dir
	return cmd
}

// run runs a program to its end and to the end of its stdout and stderr, and
// returns what it said and its exit code.
func (s *stack) run(name string, args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	cmd := s.command(name, args...)
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		require.ErrorAs(s.t, err, &exit)
	}
	return out.String(), words.String(), cmd.ProcessState.ExitCode()
}

// mount mounts in the background and returns the server's process id.
func (s *stack) mount(options string) int {
	s.t.Helper()
	_, stderr, code := s.run(s.face, "-o", options, "merged")
	require.Zero(s.t, code, stderr)
	require.Empty(s.t, stderr)
	list := s.servers()
	require.Len(s.t, list, 1)
	return list[0]
}

// servers lists the processes that were called as the stack's face.
func (s *stack) servers() (list []int) {
	entries, err := os.ReadDir("/proc")
	require.NoError(s.t, err)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		line, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline")) // it may have gone
		if err == nil && bytes.HasPrefix(line, append([]byte(s.face), 0)) {
			list = append(list, pid)
		}
	}
	return list
}

// mounted is the line of the mount table, "" if there is none.
func (s *stack) mounted() string {
	table, err := os.ReadFile("/proc/self/mounts")
	require.NoError(s.t, err)
	for line := range strings.Lines(string(table)) {
		if strings.Contains(line, " "+s.path("merged")+" ") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// gone requires that nothing is mounted and nobody serves.
func (s *stack) gone() {
	s.t.Helper()
	testenv.Eventually(s.t, "the server has left", func() bool { return len(s.servers()) == 0 })
	require.Empty(s.t, s.mounted())
}

// end is for tests that have failed: what they left does not stay.
func (s *stack) end() {
	if s.mounted() != "" {
		s.t.Errorf("%s was left mounted", s.path("merged"))
		_ = unix.Unmount(s.path("merged"), unix.MNT_DETACH) // as root
	}
	for _, pid := range s.servers() {
		s.t.Errorf("server %d was left", pid)
		_ = unix.Kill(pid, unix.SIGKILL) // it may be gone by now
	}
}

const readWrite = "lowerdir=top:low,upperdir=up,workdir=work"

// asUsers runs a test as root and as an ordinary user, who mounts by fusermount3.
func asUsers(t *testing.T, name string, test func(t *testing.T, s *stack)) {
	t.Run("root", func(t *testing.T) {
		testenv.Root(t)
		test(t, newStack(t, nil, name))
	})
	t.Run("user", func(t *testing.T) {
		u := testenv.Single(t)
		test(t, newStack(t, &u, name))
	})
}

// shell runs a script that has to succeed: as the mounter, since nobody else can
// look into the view of an ordinary user.
func (s *stack) shell(script string) string {
	s.t.Helper()
	stdout, stderr, code := s.run("sh", "-ec", script)
	require.Zero(s.t, code, stderr)
	return stdout
}

// TestFaceBackground: relative paths; the parent's end and that of its outputs
// mean that the view answers; the server holds on to nothing of the caller's.
func TestFaceBackground(t *testing.T) {
	asUsers(t, "fuse-overlayfs", func(t *testing.T, s *stack) {
		pid := s.mount(readWrite)
		require.Equal(t, "toplow", s.shell("cat merged/both merged/low"))
		require.Contains(t, s.mounted(), "fuse-overlayfs "+s.path("merged")+" fuse.fuse-overlayfs rw,")
		require.Equal(t, "65735546\n", s.shell("stat -f -c %t merged"), "FUSE_SUPER_MAGIC")
		s.shell("echo new > merged/new; rm merged/low")
		require.FileExists(t, s.path("up/new"))

		proc := func(name string) string { return fmt.Sprintf("/proc/%d/%s", pid, name) }
		for _, name := range []string{"fd/0", "fd/1", "fd/2"} {
			require.Equal(t, "/dev/null", s.readlink(proc(name)), name)
		}
		require.Equal(t, "/", s.readlink(proc("cwd")))
		sid, err := unix.Getsid(pid)
		require.NoError(t, err)
		require.Equal(t, pid, sid)
		require.Equal(t, "fuse-overlayfs", strings.TrimSpace(s.shell("cat "+proc("comm"))))
		limits := strings.Fields(s.shell("grep 'Max open files' " + proc("limits")))
		require.Equal(t, limits[4], limits[3], "the soft limit is the hard one")

		_, stderr, code := s.run("fusermount3", "-u", "merged")
		require.Zero(t, code, stderr)
		s.gone()
		require.Equal(t, "low", read(t, s.path("low/low")))
	})
}

// readlink goes by a program as the user: /proc/PID of others is closed.
func (s *stack) readlink(path string) string { return strings.TrimSpace(s.shell("readlink " + path)) }

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(data)
}

// TestFaceReadOnly: without an upper, and two positional arguments.
func TestFaceReadOnly(t *testing.T) {
	asUsers(t, "fuse-overlayfs", func(t *testing.T, s *stack) {
		_, stderr, code := s.run(s.face, "overlay", "merged", "-o", "lowerdir=top:low")
		require.Zero(t, code, stderr)
		require.Contains(t, s.mounted(), "overlay "+s.path("merged")+" fuse.fuse-overlayfs ro,")
		require.Equal(t, "top", s.shell("cat merged/both"))
		_, stderr, code = s.run("touch", "merged/x")
		require.NotZero(t, code)
		require.Contains(t, stderr, "Read-only file system")
		s.shell("fusermount3 -u merged")
		s.gone()
	})
}

// TestFaceKeepsFilesWhole: the real fuse-overlayfs reads zeros where only the metadata
// of a file was brought up.
func TestFaceKeepsFilesWhole(t *testing.T) {
	asUsers(t, "fuse-overlayfs", func(t *testing.T, s *stack) {
		s.shell("head -c 100000 /dev/zero | tr '\\0' x > low/big")
		_, stderr, code := s.run(s.face, "-o", readWrite+",metacopy=on,whiteout=overlay", "merged")
		require.Zero(t, code, stderr)
		s.shell("chmod 600 merged/big && fusermount3 -u merged")
		s.gone()
		require.Equal(t, strings.Repeat("x", 100000), s.shell("cat up/big"))
	})
}

// TestFaceUnknownOptions: one warning each, and they are ignored.
func TestFaceUnknownOptions(t *testing.T) {
	asUsers(t, "fuse-overlayfs", func(t *testing.T, s *stack) {
		_, stderr, code := s.run(s.face, "-o", readWrite+`,bogus=2,metacopy=on,context="a,b",private`, "-o", "lazy", "merged")
		require.Zero(t, code)
		require.Equal(t, "fuse-overlayfs: unknown option \"bogus=2\" is ignored\nfuse-overlayfs: unknown option \"lazy\" is ignored\n", stderr)
		s.shell("fusermount3 -u merged")
		s.gone()
	})
}

// TestFaceFails: with a sentence and a code, and nothing stays.
func TestFaceFails(t *testing.T) {
	asUsers(t, "fuse-overlayfs", func(t *testing.T, s *stack) {
		for _, c := range []struct{ args, says string }{
			{"-o lowerdir=top,timeout=soon merged", `mount option "timeout=soon"`},
			{"-o upperdir=up,workdir=work merged", "at least one lower directory"},
			{"-o lowerdir=absent merged", "absent: no such file or directory"},
			{"-o lowerdir=top,upperdir=up merged", "upperdir and workdir go together"},
			{"-o lowerdir=top nowhere", "mount point"},
			{"-o lowerdir=top", "it takes a mount point"},
			{"-x -o lowerdir=top merged", "unknown flag -x"},
		} {
			stdout, stderr, code := s.run(s.face, strings.Fields(c.args)...)
			require.Equal(t, 1, code, c.args)
			require.Contains(t, stderr, c.says)
			require.True(t, strings.HasPrefix(stderr, "fuse-overlayfs: "), stderr)
			require.Empty(t, stdout)
			s.gone()
		}
	})
}

func TestFaceTells(t *testing.T) {
	s := newStack(t, nil, "fuse-overlayfs")
	for _, flag := range []string{"-V", "--version"} {
		stdout, stderr, code := s.run(s.face, flag)
		require.Zero(t, code)
		require.Empty(t, stderr)
		require.Contains(t, stdout, "fuse-overlayfs: version ")
		require.Contains(t, stdout, "varve version test")
	}
	for _, flag := range []string{"-h", "--help"} {
		stdout, _, code := s.run(s.face, flag)
		require.Zero(t, code)
		require.Contains(t, stdout, "Usage: fuse-overlayfs ")
	}
}

// TestFaceForeground: -f stays until it is told to end.
func TestFaceForeground(t *testing.T) {
	asUsers(t, "fuse-overlayfs", func(t *testing.T, s *stack) {
		cmd := s.command(s.face, "-f", "-o", readWrite, "merged")
		require.NoError(t, cmd.Start())
		testenv.Eventually(t, "it is mounted", func() bool { return s.mounted() != "" })
		require.Equal(t, "top", s.shell("cat merged/both"))
		require.NoError(t, cmd.Process.Signal(unix.SIGINT))
		require.NoError(t, cmd.Wait())
		s.gone()
	})
}

// TestFaceSignals: each of three signals unmounts.
func TestFaceSignals(t *testing.T) {
	asUsers(t, "fuse-overlayfs", func(t *testing.T, s *stack) {
		for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP} {
			require.NoError(t, unix.Kill(s.mount(readWrite), sig))
			s.gone()
		}
	})
}

// TestFaceBusy: a view that is in use goes away lazily, told to by a signal or by
// fusermount3 -u -z: who is in it goes on, and then the server leaves.
func TestFaceBusy(t *testing.T) {
	asUsers(t, "fuse-overlayfs", func(t *testing.T, s *stack) {
		for name, end := range map[string]func(pid int){
			"signal":      func(pid int) { require.NoError(t, unix.Kill(pid, unix.SIGTERM)) },
			"fusermount3": func(int) { s.shell("fusermount3 -u -z merged") },
		} {
			pid := s.mount(readWrite)
			user := s.command("sh", "-c", "exec 3>merged/open; cd merged; read x; echo $x >&3; cat both")
			stdin, err := user.StdinPipe()
			require.NoError(t, err)
			var out bytes.Buffer
			user.Stdout = &out
			require.NoError(t, user.Start())
			testenv.Eventually(t, "the user is in", func() bool { _, err := os.Stat(s.path("up/open")); return err == nil })
			_, stderr, code := s.run("fusermount3", "-u", "merged")
			require.NotZero(t, code, "it is in use: %s", stderr)
			end(pid)
			testenv.Eventually(t, "it is out of the mount table", func() bool { return s.mounted() == "" })
			require.Len(t, s.servers(), 1, name)
			_, err = fmt.Fprintln(stdin, name)
			require.NoError(t, err)
			require.NoError(t, user.Wait())
			require.Equal(t, "top", out.String())
			require.Equal(t, name+"\n", read(t, s.path("up/open")))
			s.gone()
			require.NoError(t, os.Remove(s.path("up/open")))
		}
	})
}

// TestFaceKilled: a server that was killed leaves a view that says so, and that can
// be unmounted.
func TestFaceKilled(t *testing.T) {
	asUsers(t, "fuse-overlayfs", func(t *testing.T, s *stack) {
		require.NoError(t, unix.Kill(s.mount(readWrite), unix.SIGKILL))
		testenv.Eventually(t, "it has ended", func() bool { return len(s.servers()) == 0 })
		// A request that is under way while the connection ends is told ECONNABORTED.
		testenv.Eventually(t, "who looks is told", func() bool {
			_, stderr, code := s.run("ls", "merged")
			require.NotZero(t, code)
			return strings.Contains(stderr, "Transport endpoint is not connected")
		})
		s.shell("fusermount3 -u merged")
		s.gone()
		s.mount(readWrite) // nothing of it is in the way
		require.Equal(t, "top", s.shell("cat merged/both"))
		s.shell("fusermount3 -u merged")
		s.gone()
	})
}

// TestFaceManyLayers: 500 lower directories, the first on top.
func TestFaceManyLayers(t *testing.T) {
	asUsers(t, "fuse-overlayfs", func(t *testing.T, s *stack) {
		s.shell("seq 500 | sed s/^/l/ | xargs mkdir; for i in $(seq 500); do echo $i > l$i/all; echo $i > l$i/only$i; done")
		var lowers []string
		for i := range 500 {
			lowers = append(lowers, fmt.Sprintf("l%d", i+1))
		}
		s.mount("lowerdir=" + strings.Join(lowers, ":") + ",upperdir=up,workdir=work")
		require.Equal(t, "1\n500\n501\n", s.shell("cat merged/all merged/only500; ls merged | wc -l"))
		s.shell("echo x >> merged/only499; fusermount3 -u merged")
		require.Equal(t, "499\nx\n", read(t, s.path("up/only499")))
		s.gone()
	})
}

// TestFaceFewDescriptors: 500 lower directories with paths as long as those of
// containers/storage, by a process that may open 1024 files: it does with what the
// layers leave. Where they leave too few, it says so.
func TestFaceFewDescriptors(t *testing.T) {
	asUsers(t, "fuse-overlayfs", func(t *testing.T, s *stack) {
		const id = "1d1eb1d8f9a54e8a9d0fe0b3a7bd7d1c4e2a8e3a9f61c3d5b0e7a4c6f8d2e" // 61 digits
		s.shell("seq 100 599 | sed 's|.*|overlay/" + id + "&/diff/dir|' | xargs mkdir -p; for i in $(seq 100 599); do echo $i > overlay/" + id + "$i/diff/dir/f$i; done")
		var lowers []string
		for i := range 500 {
			lowers = append(lowers, s.path(fmt.Sprintf("overlay/%s%d/diff", id, 100+i)))
		}
		options := "lowerdir=" + strings.Join(lowers, ":") + ",upperdir=up,workdir=work"
		limited := func(files int) (stderr string, code int) {
			_, stderr, code = s.run("prlimit", fmt.Sprintf("--nofile=%d", files), s.face, "-o", options, "merged")
			return stderr, code
		}
		stderr, code := limited(1024)
		require.Zero(t, code, stderr)
		require.Equal(t, "500\n50\n", s.shell("cat merged/dir/* | wc -l; for f in merged/dir/f1[0-4]*; do echo x >> $f; done; ls up/dir | wc -l"))
		s.shell("fusermount3 -u merged")
		s.gone()
		stderr, code = limited(500)
		require.NotZero(t, code)
		require.Contains(t, stderr, "needs 628 open files")
		require.Contains(t, stderr, "ulimit -n")
		s.gone()
	})
}

// TestFaceMappings: what containers/storage adds for a shifted container.
func TestFaceMappings(t *testing.T) {
	testenv.Root(t)
	s := newStack(t, nil, "fuse-overlayfs")
	s.mount(readWrite + ",uidmapping=:0:100000:1000,gidmapping=:0:200000:500:500:7:1")
	require.Equal(t, "100000:200000\n", s.shell("stat -c %u:%g merged/both"))
	s.shell("chown 100005:7 merged/both")
	require.Equal(t, "5:500\n", s.shell("stat -c %u:%g up/both"))
	s.shell("fusermount3 -u merged")
	s.gone()
	s.mount("lowerdir=top:low,squash_to_uid=1000,squash_to_gid=1001")
	require.Equal(t, "1000:1001\n", s.shell("stat -c %u:%g merged/both"))
	s.shell("fusermount3 -u merged")
	s.gone()
	s.mount(readWrite + ",xattr_permissions=2")
	s.shell("mknod merged/null c 1 3; chown 3:4 merged/null; chmod 4755 merged/low")
	require.Equal(t, "3:4 1,3\n0:0 4755\n", s.shell("stat -c '%u:%g %t,%T' merged/null; stat -c '%u:%g %a' merged/low"))
	require.Equal(t, "regular empty file\n0:0 755\n", s.shell("stat -c %F up/null; stat -c '%u:%g %a' up/low"))
	s.shell("fusermount3 -u merged")
	s.gone()
}

// TestMountHelper: mount(8) finds us as the helper of fuse.varve, in a call and in
// fstab. Its directory of helpers is covered by our own in a mount namespace.
func TestMountHelper(t *testing.T) {
	testenv.Root(t)
	s := newStack(t, nil, "mount.fuse.varve")
	s.write("fstab", fmt.Sprintf("layers\t%s\tfuse.varve\tlowerdir=%s:%s,upperdir=%s,workdir=%s,noauto,x-test\t0 0\n",
		s.path("merged"), s.path("top"), s.path("low"), s.path("up"), s.path("work")))
	script := `
		mount --make-rprivate /
		dir=$(readlink -f /sbin)
		mount -t tmpfs helpers $dir
		ln -s ` + testenv.Varve(t) + ` $dir/mount.fuse.varve
		mount -t fuse.varve layers merged -o lowerdir=top:low
		grep " $PWD/merged " /proc/mounts
		cat merged/both
		umount merged
		mount -T $PWD/fstab merged
		grep " $PWD/merged " /proc/mounts
		echo new > merged/new
		umount merged
		mount -T $PWD/fstab -f merged
		! grep " $PWD/merged " /proc/mounts
		if mount -t fuse.varve layers merged -o lowerdir=absent; then exit 9; else echo code $?; fi`
	stdout, stderr, code := s.run("unshare", "-m", "sh", "-ec", script)
	require.Zero(t, code, stderr)
	lines := strings.Split(stdout, "\n")
	require.Contains(t, lines[0], "layers "+s.path("merged")+" fuse.varve ro,")
	require.Equal(t, "toplayers", lines[1][:9])
	require.Contains(t, lines[1], " fuse.varve rw,")
	require.Equal(t, "code 32", lines[2])
	require.Contains(t, stderr, "mount.fuse.varve: lower directory")
	require.FileExists(t, s.path("up/new"))
	testenv.Eventually(t, "the servers have left", func() bool { return len(helpers()) == 0 })
}

// helpers lists the servers that mount(8) has started.
func helpers() (list []string) {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		if line, err := os.ReadFile(path); err == nil && bytes.HasPrefix(line, []byte("/sbin/mount.fuse.varve\x00")) {
			list = append(list, path)
		}
	}
	return list
}
