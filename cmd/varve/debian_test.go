package main

import (
	"os"
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
		f, err := os.Open(tar)
		require.NoError(t, err)
		defer func() { require.NoError(t, f.Close()) }()
		load := h.command(t.Context(), "import", "-", "deb:12")
		load.Stdin = f
		said, err := load.CombinedOutput()
		require.NoError(t, err, "%s", said)
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
		list := tarOwners(t, h.ok(t, "export", "users"))
		require.Equal(t, [2]int{0, 42}, list["etc/shadow"])
		require.Equal(t, [2]int{0, 42}, list["etc/gshadow"])
		require.Equal(t, [2]int{1000, 1000}, list["home/bob/.profile"])
		h.ok(t, "commit", "users", "deb:bob")
		defer h.ok(t, "rmi", "deb:bob")
		out = h.ok(t, "run", "--rm", "-u", "bob", "deb:bob", "sh", "-c", "id -un; cd; touch mine; stat -c %U:%G mine")
		require.Equal(t, "bob\nbob:bob\n", out)
	})
}
