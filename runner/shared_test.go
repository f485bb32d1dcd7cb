package runner

import (
	"sync"
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

// A program that is shorter than what its caller does meanwhile is found all the same: with
// many at once callers are late.
func TestShortProgramsAmongOthers(t *testing.T) {
	needRoot(t)
	cfg := Config{Root: busyboxRoot(t), Args: []string{"/bin/true"}, HostPID: true}
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 40 {
				p, err := Start(cfg)
				if err == nil {
					_, err = p.Wait()
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
}
