package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
)

func TestMain(m *testing.M) {
	code := m.Run()
	testenv.RemoveVarve()
	os.Exit(code)
}

// TestScripts runs the verbs as the manual shows them, as root and as ordinary
// users with and without a range of ids. The scripts have the commands
//
//	[!] varve VERB…   runs varve as that user; its exit code is kept for
//	code N            the exit code of the last varve was N
//	tarlist FILE      prints the names in a tar, sorted, for stdout and cmp
//	[!] byid VERB FILE [FLAG…]   runs varve VERB FLAG… with the first word of FILE
//	await NAME [N]    waits until the container NAME has said "ready", N times
//	serve             serves the files of the work directory; its URL is $SERVER
func TestScripts(t *testing.T) {
	testenv.FUSE(t)
	t.Run("root", func(t *testing.T) {
		testenv.Root(t)
		runScripts(t, nil)
	})
	t.Run("ranged", func(t *testing.T) {
		u := testenv.Ranged(t)
		runScripts(t, &u)
	})
	t.Run("single", func(t *testing.T) {
		u := testenv.Single(t)
		runScripts(t, &u)
	})
}

func runScripts(t *testing.T, u *testenv.User) {
	busybox := testenv.Busybox(t)
	work := testenv.Dir(t)
	bin := filepath.Join(testenv.Dir(t), "varve")
	raw, err := os.ReadFile(testenv.Varve(t))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(bin, raw, 0o755))
	s := scripts{bin: bin, user: u}
	images, closed := testenv.NewRegistry(t), testenv.ClosedPort(t)
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		WorkdirRoot:   work,
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			env.Setenv("VARVE_ROOT", filepath.Join(env.WorkDir, "store"))
			env.Setenv("BUSYBOX", busybox.Tar)
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("VARVE", bin)
			env.Setenv("TESTPID", strconv.Itoa(os.Getpid()))
			env.Setenv("REGISTRY", images.Host)
			env.Setenv("CLOSED", closed)
			env.Setenv("GORACE", os.Getenv("GORACE"))
			stayHere(env.Setenv, closed)
			env.Defer(func() { s.sweep(env) })
			return s.give(env.WorkDir)
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "single":
				return u != nil && !u.Ranged, nil
			case "rootless":
				return u != nil || os.Geteuid() != 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"varve": s.varve, "code": s.code, "byid": s.byID, "await": s.await, "tarlist": tarlist, "untar": s.untar, "serve": serve,
		},
	})
}

// stayHere has a varve that wants to leave this machine fail at once.
func stayHere(setenv func(name, value string), closed string) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY"} {
		setenv(name, "http://"+closed)
	}
}

// codeEnv keeps the exit code of the last varve for the command "code".
const codeEnv = "VARVE_LAST_CODE"

// scripts runs varve for scripts, as a user.
type scripts struct {
	bin  string
	user *testenv.User
}

// command is how a program is run as the user.
func (s *scripts) command(args ...string) []string {
	if s.user == nil || os.Geteuid() != 0 {
		return args
	}
	return append([]string{"setpriv", "--reuid", strconv.Itoa(s.user.UID), "--regid", strconv.Itoa(s.user.GID), "--init-groups"}, args...)
}

// give makes the user the owner of the work directory.
func (s *scripts) give(dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	if s.user == nil || os.Geteuid() != 0 {
		return nil
	}
	return filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		return errors.Join(err, os.Lchown(path, s.user.UID, s.user.GID))
	})
}

func (s *scripts) varve(ts *testscript.TestScript, neg bool, args []string) {
	all := s.command(append([]string{s.bin}, args...)...)
	err := ts.Exec(all[0], all[1:]...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	ts.Setenv(codeEnv, strconv.Itoa(code)) // scripts run side by side; this is the script's own
	if neg == (code == 0) {
		ts.Fatalf("varve %s: exit code %d", strings.Join(args, " "), code)
	}
}

// byID runs a verb on an ID that was printed to a file.
func (s *scripts) byID(ts *testscript.TestScript, neg bool, args []string) {
	id := strings.Fields(ts.ReadFile(args[1]))[0]
	s.varve(ts, neg, append(append([]string{args[0]}, args[2:]...), id))
}

// await waits until a container has said that it is ready, as often as that.
func (s *scripts) await(ts *testscript.TestScript, _ bool, args []string) {
	times := 1
	if len(args) > 1 {
		var err error
		times, err = strconv.Atoi(args[1])
		ts.Check(err)
	}
	all := s.command(s.bin, "logs", args[0])
	for limit := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		cmd := exec.Command(all[0], all[1:]...)
		cmd.Env = append(os.Environ(), "VARVE_ROOT="+ts.Getenv("VARVE_ROOT"), "HOME="+ts.Getenv("HOME"))
		out, err := cmd.Output()
		ts.Check(err)
		if strings.Count(string(out), "ready\n") >= times {
			return
		}
		if time.Now().After(limit) {
			ts.Fatalf("after a minute %s still is not ready: %s", args[0], out)
		}
	}
}

func (s *scripts) code(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: code N")
	}
	if got := ts.Getenv(codeEnv); got != args[0] {
		ts.Fatalf("the exit code was %s, not %s", got, args[0])
	}
}

// untar unpacks a tar as the user: untar FILE DIR.
func (s *scripts) untar(ts *testscript.TestScript, _ bool, args []string) {
	all := s.command("sh", "-c", `mkdir "$1" && tar -C "$1" -xpf "$0"`, ts.MkAbs(args[0]), ts.MkAbs(args[1]))
	ts.Check(ts.Exec(all[0], all[1:]...))
}

func tarlist(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec("sh", "-c", `tar -tf "$0" | sed 's|^\./||; s|/$||' | LC_ALL=C sort`, ts.MkAbs(args[0])))
}

// serve starts a web server on the loopback interface, until the script ends.
func serve(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: serve")
	}
	server := httptest.NewServer(http.FileServer(http.Dir(ts.Getenv("WORK"))))
	ts.Defer(server.Close)
	ts.Setenv("SERVER", server.URL)
}

// sweep removes what ended scripts left: files of mapped ids are not ours to
// remove otherwise.
func (s *scripts) sweep(env *testscript.Env) {
	run := func(args ...string) string {
		all := s.command(append([]string{s.bin, "--root", filepath.Join(env.WorkDir, "store")}, args...)...)
		cmd := exec.Command(all[0], all[1:]...)
		cmd.Env = env.Vars
		out, _ := cmd.Output() // a script may have spoilt its store
		return string(out)
	}
	for _, id := range strings.Fields(run("ps", "-a", "-q", "--no-trunc")) {
		run("rm", "-f", id)
	}
	for _, id := range strings.Fields(run("images", "-q", "--no-trunc")) {
		run("rmi", "-f", id)
	}
}
