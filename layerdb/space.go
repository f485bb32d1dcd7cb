package layerdb

import (
	"fmt"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// badger writes through mappings of its files, where a full disk is not an error
// but SIGBUS. So nothing is opened unless there is room for what a transaction of
// the largest size writes (its log, its table and the manifest: 4 MiB), and for
// all tables once more, if they are merged.
const (
	minFree   = 4 << 20
	minInodes = 64
)

// checkSpace fails with ErrNoSpace when the file system is too full.
func (s *Store) checkSpace() error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.Root(), &st); err != nil {
		return fmt.Errorf("store %s: statfs: %w", s.Root(), err)
	}
	_, size := s.tables()
	free, need := st.Bavail*uint64(st.Bsize), uint64(minFree+size)
	if free < need {
		return fmt.Errorf("store %s: %w: %s free, %s needed; remove containers, which needs none, or use another --root",
			s.Root(), ErrNoSpace, units.BytesSize(float64(free)), units.BytesSize(float64(need)))
	}
	if st.Files > 0 && st.Ffree < minInodes { // btrfs and others do not count inodes
		return fmt.Errorf("store %s: %w: %d inodes free, %d needed", s.Root(), ErrNoSpace, st.Ffree, minInodes)
	}
	return nil
}
