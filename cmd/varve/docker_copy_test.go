package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
)

// copies are the arguments of cp, one after the other on the same container and the same
// files.
var copies = []string{
	"file cc:/tmp/new", "file cc:/tmp", "file cc:/tmp/", "file cc:/tmp/none/", "file cc:/none/x", "file cc:/tmp/new/x", "file cc:/",
	"other cc:/tmp/new", "tree cc:/tmp/dir", "tree cc:/tmp/dir", "tree/ cc:/tmp/slash", "tree/. cc:/tmp/dot", "tree/. cc:/tmp/dir",
	"tree cc:/tmp/none/x", "tree cc:/tmp/new", "tree/. cc:/tmp/new", "tree cc:/tmp/made/", "tree cc:/tmp/made2/.", "file/ cc:/tmp/x", "absent cc:/tmp/x",
	"link cc:/tmp/link", "-L link cc:/tmp/followed", "dirlink cc:/tmp/dirlink", "dirlink/ cc:/tmp/dirlink2", "-L dirlink cc:/tmp/dirlink3",
	"dangling cc:/tmp/dangling", "-L dangling cc:/tmp/dangling2", "tree cc:tmp/relative", "file cc:/tmp/../tmp/up",
	"file cc:/tmp/dir", "clash/. cc:/tmp", "clash2/. cc:/tmp",

	"cc:/tmp/new out", "cc:/tmp/new out", "cc:/tmp/dir outdir", "cc:/tmp/dir outdir", "cc:/tmp/dir/. outdot", "cc:/tmp/dir/. outdir", "cc:/tmp/dir/ outslash",
	"cc:/tmp/dir out", "cc:/tmp/new none/", "cc:/tmp/new none/x", "cc:/tmp/new outdir", "cc:/tmp/new outdir/", "cc:/tmp/new out/", "cc:/absent x", "cc:/tmp/new/ x",
	"cc:/tmp/link outlink", "-L cc:/tmp/link outfollowed", "cc:/tmp/new hostlink", "cc:/tmp/new hostdirlink", "cc:/tmp/new hostdangling", "cc:tmp/new relative",
	"cc:/tmp/dir/absent x", "cc:/tmp/new/x x", "cc:/bin/sh outsh", "-L cc:/bin/sh outsh2", "cc:/tmp/dirlink outdl", "cc:/tmp/dirlink/ outdl2",

	"file other", "cc:/x cc:/y", "file none:/x", "none:/x file", "./co:lon cc:/tmp",
}

// TestCopyAsDocker: the same copies have the same exit codes, the same words and the same
// files as docker's.
func TestCopyAsDocker(t *testing.T) {
	testenv.Root(t)
	testenv.FUSE(t)
	testenv.Program(t, "dockerd", "docker.io")
	testenv.Program(t, "docker", "docker.io")
	p := &peers{home: newHome(t, nil), dir: testenv.Dir(t)}
	docker := p.dockerd(t)
	docker("import", testenv.Busybox(t).Tar, "small:1")
	docker("create", "--name", "cc", "--network", "none", "small:1", "true")
	p.ok(t, "create", "--name", "cc", "small:1", "true")
	socket := docker("context", "inspect", "-f", "{{.Endpoints.docker.Host}}")
	engines := map[string][]string{"docker": {"docker", "-H", socket}, "varve": {p.bin, "--root", p.root}}
	results := map[string][]string{}
	for name, prefix := range engines {
		dir := testenv.Dir(t)
		prepare := exec.Command("sh", "-c", `mkdir -p tree/sub clash/new clash2 hostdir && echo some > file && echo other > other && echo leaf > tree/sub/leaf &&
			echo top > tree/top && chmod 600 tree/top && chmod 750 tree/sub && ln -s file link && ln -s tree dirlink && ln -s nothing dangling &&
			ln -s sub/leaf tree/inner && ln tree/top tree/hard && echo x > clash/new/x && echo x > clash2/dir && echo x > co:lon && echo old > hostfile &&
			ln -s hostfile hostlink && ln -s hostdir hostdirlink && ln -s hostmade hostdangling && chown -h 12:34 file tree/top tree/sub link`)
		prepare.Dir = dir
		out, err := prepare.CombinedOutput()
		require.NoError(t, err, "%s", out)
		for _, args := range copies {
			results[name] = append(results[name], oneCopy(t, dir, slices.Concat(prefix, []string{"cp"}, strings.Fields(args)), args))
		}
		host := exec.Command("tar", "-C", dir, "-cf", "-", ".")
		inside := exec.Command(prefix[0], slices.Concat(prefix[1:], []string{"cp", "cc:/tmp", "-"})...)
		results[name] = append(results[name], "the host: "+listed(t, host), "the container: "+listed(t, inside))
	}
	require.Equal(t, strings.Join(results["docker"], "\n"), strings.Join(results["varve"], "\n"))
	p.ok(t, "rm", "cc")
}

// logLine is what docker's client logs of itself, when a copy fails early or late.
var logLine = regexp.MustCompile(`(?m)^time=".*\n`)

// oneCopy tells the exit code and the words of a copy.
func oneCopy(t *testing.T, dir string, line []string, args string) string {
	t.Helper()
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	out = logLine.ReplaceAll(out, nil)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		require.NoError(t, err)
	}
	said := strings.NewReplacer("Error response from daemon: ", "", "varve: ", "", dir, "DIR").Replace(strings.TrimSpace(string(out)))
	for _, r := range [][2]string{
		{`time=.* level=error .*\n`, ""},                                           // docker's packer goes on for a moment
		{`lstat .*/merged/.*: not a directory`, "not a directory"},                 // it shows the daemon's own path
		{`.*cannot overwrite (non-directory|directory) .*`, "cannot overwrite $1"}, // and has the wrong names here
	} {
		said = regexp.MustCompile(r[0]).ReplaceAllString(said, r[1])
	}
	return fmt.Sprintf("cp %s: %d %s", args, code, said)
}

// listed tells the names, kinds, modes, owners, targets and contents of the files of a tar.
func listed(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	cmd.Stderr = os.Stderr
	raw, err := cmd.Output()
	require.NoError(t, err)
	var list []string
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		sum := sha256.New()
		_, err = io.Copy(sum, r)
		require.NoError(t, err)
		kind := h.Typeflag
		if kind == tar.TypeLink { // which of its names comes first is of no concern
			continue
		}
		name := filepath.Clean(h.Name)
		list = append(list, fmt.Sprintf("%s %c %o %d:%d %s %x", name, kind, h.Mode&0o777, h.Uid, h.Gid, h.Linkname, sum.Sum(nil)[:4]))
	}
	slices.Sort(list)
	return strings.Join(list, "\n")
}
