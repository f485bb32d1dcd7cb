package layerdb

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestUnbornLog: a log that has no size yet, as a process leaves it that is killed
// while it opens the database, keeps nobody from reading or writing.
func TestUnbornLog(t *testing.T) {
	for what, use := range map[string]func(s *Store) error{
		"read":  func(s *Store) error { return s.View(func(*Tx) error { return nil }) },
		"write": func(s *Store) error { return s.Update(func(*Tx) error { return nil }) },
	} {
		t.Run(what, func(t *testing.T) {
			s := openStore(t)
			require.NoError(t, s.Update(func(tx *Tx) error {
				return tx.PutImage(image(stageLayer(t, s, tx, nil, "l"), "i"))
			}))
			for _, name := range []string{"00077.mem", "000077.vlog"} {
				require.NoError(t, os.WriteFile(s.Path(dbName, name), nil, 0o600))
			}
			require.NoError(t, use(s))
			images, _ := whole(t, s)
			require.Equal(t, 1, images)
		})
	}
}
