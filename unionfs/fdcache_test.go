package unionfs

import (
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTableOfDescriptorsGrowsAtOnce(t *testing.T) {
	limit, err := fdLimit(500)
	require.NoError(t, err)
	require.NoError(t, growTable(limit+500))
	status, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	size, err := strconv.Atoi(string(regexp.MustCompile(`FDSize:\t(\d+)`).FindSubmatch(status)[1]))
	require.NoError(t, err)
	require.Greater(t, size, limit+500, "there is room for a full cache")
}
