package main

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
)

// TestPrograms runs the programs of scripts/programs.sh that need no network and
// cost little, each in a mode of its own, on less than they take by default;
// `make programs` runs all.
func TestPrograms(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("the programs make device nodes and mounts: run as root")
	}
	for _, run := range []struct{ name, io string }{
		{"tar", "cached"}, {"git", "cached"}, {"make", "passthrough"}, {"sqlite", "writeback"},
	} {
		t.Run(run.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "../../scripts/programs.sh", run.name)
			cmd.Env = append(os.Environ(), "VARVE="+testenv.Varve(t), "IO="+run.io, "COMMITS=60", "FILES=20", "ROWS=20", "MODES=delete wal")
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			t.Logf("%s", out)
		})
	}
}
