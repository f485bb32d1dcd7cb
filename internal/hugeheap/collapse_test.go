//go:build linux && (amd64 || arm64)

package hugeheap

import (
	"bufio"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

const showVariable = "HUGEHEAP_SHOW"

func TestMain(m *testing.M) {
	if os.Getenv(showVariable) != "" {
		os.Stdout.WriteString(hugePages())
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestHeapBeginsWithAHugePage: of processes that have just begun. The kernel may have none
// to give to one of them.
func TestHeapBeginsWithAHugePage(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
		t.Skip("this kernel has no transparent huge pages")
	}
	most := 0
	for range 20 {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{showVariable + "=1"}
		out, err := cmd.Output()
		require.NoError(t, err)
		size, err := strconv.Atoi(string(out))
		require.NoError(t, err, "%q", out)
		most = max(most, size)
	}
	require.GreaterOrEqual(t, most, hugePage>>10)
}

// hugePages is how much of the mapping with first in it is in huge pages, in KiB.
func hugePages() string {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }() // only read
	here := false
	for s := bufio.NewScanner(f); s.Scan(); {
		field := strings.Fields(s.Text())
		if from, to, isRange := strings.Cut(field[0], "-"); isRange {
			here = inRange(from, to)
		} else if here && field[0] == "AnonHugePages:" {
			return field[1]
		}
	}
	return "none"
}

func inRange(from, to string) bool {
	low, lowErr := strconv.ParseUint(from, 16, 64)
	high, highErr := strconv.ParseUint(to, 16, 64)
	at := uint64(uintptr(unsafe.Pointer(first)))
	return lowErr == nil && highErr == nil && low <= at && at < high
}
