package unionfs

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// otherModes are those that are not the default.
var otherModes = []Mode{Writeback, Passthrough, Plain}

// needsMode skips a test of a mode that this host does not allow.
func needsMode(t *testing.T, mode Mode) {
	t.Helper()
	if mode != Passthrough {
		return
	}
	w := newWorld(t, 1)
	opt := w.options()
	opt.IO = mode
	s, err := Mount(w.mnt, opt)
	if errors.As(err, new(errNoPassthrough)) {
		t.Skip(err)
	}
	require.NoError(t, err)
	require.NoError(t, s.Unmount())
}
