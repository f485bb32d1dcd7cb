package layerdb

import (
	"fmt"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// badger writes through mappings of its files, where a full disk is not an error
// but SIGBUS. So nothing is opened unless this much is free: twice what one
// transaction and one compaction of a full memtable may write.
const (
	minFree   = 16 << 20
	minInodes = 64
)

// checkSpace fails with ErrNoSpace when the file system is too full.
func (s *Store) checkSpace() error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil {
		return fmt.Errorf("store %s: statfs: %w", s.root, err)
	}
	free := st.Bavail * uint64(st.Bsize)
	if free < minFree {
		return fmt.Errorf("store %s: %w: %s free, %s needed; remove containers or images elsewhere, or use another --root",
			s.root, ErrNoSpace, units.BytesSize(float64(free)), units.BytesSize(minFree))
	}
	if st.Files > 0 && st.Ffree < minInodes { // btrfs and others do not count inodes
		return fmt.Errorf("store %s: %w: %d inodes free, %d needed", s.root, ErrNoSpace, st.Ffree, minInodes)
	}
	return nil
}
