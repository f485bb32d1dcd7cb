package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
)

// TestPodman has podman and buildah work with this program in the place of
// fuse-overlayfs, as root and as an ordinary user. The scripts have the commands
// podman and buildah, with a storage of the test's own and what it takes to run
// them on a host of hybrid cgroups and low limits, without a network. STORAGE_OPT
// is one more option of the storage.
func TestPodman(t *testing.T) {
	testenv.FUSE(t)
	for _, name := range []string{"podman", "buildah", "runc"} {
		testenv.Program(t, name, name)
	}
	t.Run("root", func(t *testing.T) {
		testenv.Root(t)
		runPodman(t, nil)
	})
	t.Run("rootless", func(t *testing.T) {
		u := testenv.Ranged(t)
		runPodman(t, &u)
	})
}

func runPodman(t *testing.T, u *testenv.User) {
	busybox := testenv.Busybox(t)
	work := testenv.Dir(t)
	p := podman{scripts: scripts{user: u}, face: filepath.Join(testenv.Dir(t), "fuse-overlayfs")}
	require.NoError(t, os.Symlink(testenv.Varve(t), p.face))
	testscript.Run(t, testscript.Params{
		Dir:         "testdata/podman",
		WorkdirRoot: work,
		Setup: func(env *testscript.Env) error {
			env.Setenv("BUSYBOX", busybox.Tar)
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("XDG_RUNTIME_DIR", filepath.Join(env.WorkDir, "xdg"))
			env.Setenv("TMPDIR", filepath.Join(env.WorkDir, "temp"))
			err := errors.Join(os.Mkdir(filepath.Join(env.WorkDir, "xdg"), 0o700), os.Mkdir(filepath.Join(env.WorkDir, "temp"), 0o700))
			if _, statErr := os.Stat(filepath.Join(env.WorkDir, "ctx")); statErr == nil {
				err = errors.Join(err, copyTo(filepath.Join(env.WorkDir, "ctx/root.tar"), busybox.Tar))
			}
			env.Defer(func() { p.sweep(t, env) })
			return errors.Join(err, p.give(env.WorkDir))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"podman": p.podman, "buildah": p.buildah},
	})
}

func copyTo(target, source string) error {
	data, err := os.ReadFile(source)
	return errors.Join(err, os.WriteFile(target, data, 0o644))
}

// podman runs podman and buildah for scripts.
type podman struct {
	scripts
	face string
}

// storage are the flags that both programs share.
func (p *podman) storage(work string) []string {
	return []string{"--root", filepath.Join(work, "root"), "--runroot", filepath.Join(work, "run"),
		"--storage-driver", "overlay", "--storage-opt", "overlay.mount_program=" + p.face}
}

// limits are those of a small host: podman asks for more than it may have there.
var limits = []string{"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"}

// line is a command line with what the verb needs here.
func (p *podman) line(program, work, option string, args []string) []string {
	all := append([]string{program}, p.storage(work)...)
	if option != "" {
		all = append(all, "--storage-opt", option)
	}
	if program == "podman" { // crun refuses hybrid cgroups
		all = append(all, "--tmpdir", filepath.Join(work, "temp"), "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file")
	}
	all = append(all, args[0])
	switch args[0] {
	case "build", "bud":
		all = append(append(all, "--network", "none"), limits...)
		if program == "buildah" {
			all = append(all, "--runtime", "runc")
		}
	case "run":
		if all = append(all, "--network", "none"); program == "podman" {
			all = append(all, limits...)
		} else {
			all = append(all, "--runtime", "runc")
		}
	case "from":
		if program == "buildah" {
			all = append(all, limits...)
		}
	}
	return p.command(append(all, args[1:]...)...)
}

func (p *podman) podman(ts *testscript.TestScript, neg bool, args []string) {
	p.run(ts, neg, "podman", args)
}

func (p *podman) buildah(ts *testscript.TestScript, neg bool, args []string) {
	p.run(ts, neg, "buildah", args)
}

func (p *podman) run(ts *testscript.TestScript, neg bool, program string, args []string) {
	all := p.line(program, ts.Getenv("WORK"), ts.Getenv("STORAGE_OPT"), args)
	if err := ts.Exec(all[0], all[1:]...); (err == nil) == neg {
		ts.Fatalf("%s %s: %v", program, args[0], err)
	}
}

// sweep removes what a script left, and ends the process that holds a user's
// namespace for podman. No server may be left by then.
func (p *podman) sweep(t *testing.T, env *testscript.Env) {
	run := func(args ...string) {
		all := p.line("podman", env.WorkDir, "", args)
		cmd := exec.Command(all[0], all[1:]...)
		cmd.Env, cmd.Dir = env.Vars, env.WorkDir
		_, _ = cmd.CombinedOutput() // a script may have failed half-way
	}
	run("rm", "-f", "-a")
	run("rmi", "-f", "-a")
	if p.user != nil {
		run("system", "migrate")
	}
	s := stack{t: t, face: p.face}
	testenv.Eventually(t, "all servers have left", func() bool { return len(s.servers()) == 0 })
}
