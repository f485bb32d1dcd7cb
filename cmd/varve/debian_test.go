package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
)

// TestDebian imports a real distribution and uses its tools in it.
func TestDebian(t *testing.T) {
	tar := testenv.Debian(t)
	eachUser(t, func(t *testing.T, h *home) {
		h.importFrom(t, tar, "deb:12")
		defer h.ok(t, "rmi", "deb:12")

		out := h.ok(t, "run", "--rm", "deb:12", "sh", "-c", "apt-get --version; dpkg -l | wc -l; python3 -V || true")
		require.Regexp(t, regexp.MustCompile(`(?m)^apt 2\.6\.`), out)
		require.Regexp(t, regexp.MustCompile(`(?m)^\d{2,}$`), out, "a line a package")
		require.Equal(t, "640", strings.TrimSpace(h.ok(t, "run", "--rm", "deb:12", "stat", "-c", "%a", "/etc/shadow")))
		require.Empty(t, strings.TrimSpace(h.ok(t, "run", "--rm", "deb:12", "dpkg", "--audit")), "a package is broken")
		require.Equal(t, "shadow", strings.TrimSpace(h.ok(t, "run", "--rm", "deb:12", "stat", "-c", "%G", "/etc/shadow")))

		// The tools of users write files anew, with the owner that they see of the old one.
		h.ok(t, "run", "--name", "users", "deb:12", "sh", "-ec", "useradd -m bob; echo bob:secret | chpasswd; passwd -l bob")
		defer h.ok(t, "rm", "users")
		flat := h.command(t.Context(), "export", "users")
		data, err := flat.StdoutPipe() // a string of all of it would count as the memory of processes that are started later
		require.NoError(t, err)
		require.NoError(t, flat.Start())
		list := ownersIn(t, data)
		_, err = io.Copy(io.Discard, data)
		require.NoError(t, errors.Join(err, flat.Wait()))
		require.Equal(t, [2]int{0, 42}, list["etc/shadow"])
		require.Equal(t, [2]int{0, 42}, list["etc/gshadow"])
		require.Equal(t, [2]int{1000, 1000}, list["home/bob/.profile"])
		h.ok(t, "commit", "users", "deb:bob")
		defer h.ok(t, "rmi", "deb:bob")
		out = h.ok(t, "run", "--rm", "-u", "bob", "deb:bob", "sh", "-c", "id -un; cd; touch mine; stat -c %U:%G mine")
		require.Equal(t, "bob\nbob:bob\n", out)
	})
}

// importFrom makes an image of a tar that the user may not be able to open.
func (h *home) importFrom(t *testing.T, tar, image string) {
	t.Helper()
	f, err := os.Open(tar)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	load := h.command(t.Context(), "import", "-", image)
	load.Stdin = f
	said, err := load.CombinedOutput()
	require.NoError(t, err, "%s", said)
}

// TestInstallWithASingleID installs ten packages with users, groups and set-group-ID programs of
// their own where the kernel knows a single id, and has podman look at what comes of it.
func TestInstallWithASingleID(t *testing.T) {
	testenv.FUSE(t)
	testenv.Root(t) // for podman
	testenv.Program(t, "podman", "podman")
	tar := testenv.Debian(t)
	u := testenv.Single(t)
	testenv.CheckLeaks(t)
	h := newHome(t, &u)
	h.importFrom(t, tar, "deb:12")
	defer h.ok(t, "rmi", "deb:12")
	packages := "at cron dbus libc6-dev man-db openssh-client procps redis-server screen sudo"
	install := h.command(t.Context(), "run", "--name", "ten", "-e", "DEBIAN_FRONTEND=noninteractive", "deb:12", "sh", "-ec",
		"apt-get update -qq && apt-get install -qq -y --no-install-recommends "+packages)
	said, err := install.CombinedOutput()
	defer h.ok(t, "rm", "ten")
	require.NoError(t, err, "%s", said)
	h.ok(t, "commit", "ten", "deb:ten")
	defer h.ok(t, "rmi", "deb:ten")

	const owners = `cd "$0" && find bin/ usr etc/sudoers etc/redis var -printf '%P|%y|%m|%U:%G\n' | LC_ALL=C sort`
	inside := strings.TrimSpace(h.ok(t, "run", "--rm", "deb:ten", "sh", "-ec", owners, "/"))
	state := h.ok(t, "run", "--rm", "deb:ten", "sh", "-c", "dpkg-query -W -f '${db:Status-Abbrev}\n' "+packages+"; dpkg --audit")
	require.Equal(t, strings.Repeat("ii \n", 10), state)
	for _, program := range []string{"bin/crontab|f|2755|", "bin/ssh-agent|f|2755|", "bin/at|f|6755|", "lib/dbus-1.0/dbus-daemon-launch-helper|f|4754|"} {
		line := regexp.MustCompile("(?m)^" + regexp.QuoteMeta(program) + "(.*)$").FindStringSubmatch(inside)
		require.Len(t, line, 2, program)
		require.NotEqual(t, "0:0", line[1], program)
	}

	saved := filepath.Join(u.Dir(t), "ten.tar")
	h.ok(t, "save", "-o", saved, "deb:ten")
	p := &peers{dir: testenv.Dir(t), home: h}
	p.pod(t, "load", "-i", saved)
	t.Cleanup(func() { _ = exec.Command("umount", p.dir+"/pod/overlay").Run() }) // podman's, if it made one
	dir := p.pod(t, "image", "mount", "deb:ten")
	defer p.pod(t, "image", "unmount", "deb:ten")
	require.Equal(t, inside, p.command(t, "sh", "-c", owners, dir))
}
