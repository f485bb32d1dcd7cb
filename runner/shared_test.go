package runner

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stretchr/testify/require"
)

// What enters other namespaces never does so on the first thread, which could not end.
func TestAside(t *testing.T) {
	for range 300 {
		tid := 0
		aside(func() { tid = unix.Gettid() })
		require.NotZero(t, tid)
		require.NotEqual(t, unix.Getpid(), tid)
	}
}
