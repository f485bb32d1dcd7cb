package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/varvefs/varve/internal/testenv"
)

// TestDebianRegistry has varve, skopeo and podman meet at Debian's docker-registry.
// The scripts have, besides varve, the commands
//
//	skopeo, podman    run those, as root, with a storage of the script's own
//	listing DIR FILE  writes all that tar knows of the files in DIR to FILE
//	asked PATTERN N   the registry was asked N times, or "N+", what the pattern says
//
// and $DEBIAN, the registry, and $CUT, the same but for its connections: each ends
// after half a megabyte.
func TestDebianRegistry(t *testing.T) {
	testenv.FUSE(t)
	testenv.Root(t)
	for _, name := range []string{"docker-registry", "skopeo", "podman"} {
		testenv.Program(t, name, name)
	}
	s := scripts{bin: testenv.Varve(t)}
	busybox, closed := testenv.Busybox(t), testenv.ClosedPort(t)
	testscript.Run(t, testscript.Params{
		Dir:         "testdata/registry",
		WorkdirRoot: testenv.Dir(t),
		Setup: func(env *testscript.Env) error {
			r, err := startDebian(t, env)
			if err != nil {
				return err
			}
			for name, value := range map[string]string{
				"VARVE_ROOT": filepath.Join(env.WorkDir, "store"), "BUSYBOX": busybox.Tar, "HOME": env.WorkDir,
				"XDG_RUNTIME_DIR": env.WorkDir, "DEBIAN": r.host, "CUT": cutting(env, r.host),
			} {
				env.Setenv(name, value)
			}
			stayHere(env.Setenv, closed)
			env.Defer(func() { s.sweep(env) })
			env.Values[debian{}] = r
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"varve": s.varve, "code": s.code, "untar": s.untar, "listing": listing, "asked": asked, "skopeo": skopeo, "podman": vfsPodman,
		},
	})
}

// debian is a docker-registry that runs, and what it has said. As a key it stands for
// that of a script.
type debian struct {
	host string
	log  *lockedBuffer
}

// lockedBuffer is written to by a process and read by a test.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// startDebian starts a registry on a port of loopback that was free just before, and
// ends it with the script.
func startDebian(t *testing.T, env *testscript.Env) (debian, error) {
	// Not t.Cleanup: the port is to be free again, and was never listened on.
	probe := httptest.NewServer(http.NotFoundHandler())
	r := debian{host: probe.Listener.Addr().String(), log: &lockedBuffer{}}
	probe.Close()
	config := filepath.Join(env.WorkDir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: warn}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q}\n",
		filepath.Join(env.WorkDir, "registry"), r.host)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return r, err
	}
	cmd := exec.Command("docker-registry", "serve", config)
	cmd.Stdout, cmd.Stderr = r.log, r.log
	if err := cmd.Start(); err != nil {
		return r, err
	}
	env.Defer(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // killed
	})
	testenv.Eventually(t, "docker-registry answers", func() bool {
		resp, err := http.Get("http://" + r.host + "/v2/")
		return err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	})
	return r, nil
}

// cutting stands before a registry and breaks each answer after half a megabyte.
func cutting(env *testscript.Env, host string) string {
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: host})
	proxy.ErrorLog, proxy.ModifyResponse = nil, nil
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		proxy.ServeHTTP(&cutWriter{w, 512 << 10}, req)
	}))
	env.Defer(server.Close)
	return server.Listener.Addr().String()
}

type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if c.left -= len(p); c.left < 0 {
		panic(http.ErrAbortHandler)
	}
	return c.ResponseWriter.Write(p)
}

func (c *cutWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// asked counts the lines of the registry's log of requests.
func asked(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: asked PATTERN N")
	}
	pattern, err := regexp.Compile(args[0])
	ts.Check(err)
	log := ts.Value(debian{}).(debian).log.String()
	least, more := strings.CutSuffix(args[1], "+")
	want, err := strconv.Atoi(least)
	ts.Check(err)
	if got := len(pattern.FindAllString(log, -1)); got < want || got > want && !more {
		ts.Fatalf("%d times instead of %s in\n%s", got, args[1], log)
	}
}

// listing writes one line a file: type, mode, owner, size, time, target of a link,
// names of its inode, device, digest and extended attributes, sorted by name.
func listing(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: listing DIR FILE")
	}
	const script = `cd "$0" && find . -mindepth 1 -printf '%P %y %m %U:%G %T@ %l ' \( -type d -printf '\n' -o -printf '%s %n ' \
		\( -type f -exec sh -c 'sha256sum <"$1"; getfattr -d -m - -e hex -- "$1" 2>/dev/null | grep =' - {} \; -o -exec stat -c %t,%T {} \; \) \) |
		LC_ALL=C sort`
	out, err := exec.Command("sh", "-c", script, ts.MkAbs(args[0])).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		ts.Fatalf("listing: %s", exit.Stderr)
	}
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), out, 0o600))
}

func skopeo(ts *testscript.TestScript, neg bool, args []string) {
	program(ts, neg, append([]string{"skopeo", "--insecure-policy"}, args...))
}

// vfsPodman is podman with plain directories for a storage.
func vfsPodman(ts *testscript.TestScript, neg bool, args []string) {
	work := ts.Getenv("WORK")
	program(ts, neg, append([]string{"podman", "--root", filepath.Join(work, "p/root"), "--runroot", filepath.Join(work, "p/run"),
		"--tmpdir", filepath.Join(work, "p/tmp"), "--storage-driver", "vfs", "--events-backend", "file"}, args...))
}

func program(ts *testscript.TestScript, neg bool, all []string) {
	if err := ts.Exec(all[0], all[1:]...); (err == nil) == neg {
		ts.Fatalf("%s: %v", strings.Join(all, " "), err)
	}
}
