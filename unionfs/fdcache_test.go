package unionfs

import (
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTableOfDescriptorsGrowsAtOnce(t *testing.T) {
	require.NoError(t, growTable(fdLimit()))
	status, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	size, err := strconv.Atoi(string(regexp.MustCompile(`FDSize:\t(\d+)`).FindSubmatch(status)[1]))
	require.NoError(t, err)
	require.Greater(t, size, fdLimit(), "there is room for a full cache")
}
