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
		if h.user == nil || h.user.Ranged {
			require.Equal(t, "shadow", strings.TrimSpace(h.ok(t, "run", "--rm", "deb:12", "stat", "-c", "%G", "/etc/shadow")))
		}
	})
}
