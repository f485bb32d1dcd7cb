package unionfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// bigDir is how many names the directories of TestBigDirectory have. Every bigStep-th
// may be changed, and at most mostSteps changes of four names are made in a round.
const (
	bigDir    = 100_000
	bigStep   = 20
	mostSteps = 400
)

// TestBigDirectory: a directory of 100,000 names, of the layers, of the upper or of
// both, that is read while names come and go, in pieces, from places that
// telldir gave, and anew from its beginning: what is there all the time is seen
// exactly once (readdir(3)), and is where it was.
func TestBigDirectory(t *testing.T) {
	testenv.Root(t)
	for name, dirs := range map[string]func(w *world) []string{
		"lower": func(w *world) []string { return w.lowers[:1] },
		"upper": func(w *world) []string { return []string{w.upper} },
		"mixed": func(w *world) []string { return append([]string{w.upper}, w.lowers...) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2)
			w.inMemory(t)
			fillBig(t, dirs(w))
			for k, mode := range []Mode{Cached, Plain, Passthrough} {
				if name != "mixed" && mode != Cached {
					continue // directories are the same in all modes
				}
				t.Run(mode.String(), func(t *testing.T) {
					needsMode(t, mode)
					testenv.CheckLeaks(t)
					opt := w.options()
					opt.IO = mode
					w.mount(t, opt)
					readBig(t, filepath.Join(w.mnt, "big"), k)
					w.unmount(t)
				})
			}
		})
	}
}

// inMemory puts layers and upper on a tmpfs, where many files are made quickly.
func (w *world) inMemory(t *testing.T) {
	ram := sub(filepath.Dir(w.mnt), "ram")
	require.NoError(t, unix.Mount("tmpfs", ram, "tmpfs", 0, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(ram, 0)) })
	w.upper, w.work = sub(ram, "upper"), sub(ram, "work")
	for k := range w.lowers {
		w.lowers[k] = sub(ram, fmt.Sprint("lower", k))
	}
}

// fillBig spreads the names over directories "big".
func fillBig(t *testing.T, dirs []string) {
	for i, dir := range dirs {
		mkdir(t, dir, "big")
		for k := i; k < bigDir; k += len(dirs) {
			require.NoError(t, unix.Mknod(bigName(dir+"/big", k), unix.S_IFREG|0o644, 0))
		}
	}
}

func bigName(dir string, k int) string { return fmt.Sprintf("%s/f%06d", dir, k) }

// readBig reads dir, with changes between the pieces. What is changed differs from round to
// round.
func readBig(t *testing.T, dir string, round int) {
	c := &changer{dir: dir, next: round * 4 * mostSteps * bigStep, gone: map[string]bool{}}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	require.NoError(t, err)
	defer unix.Close(fd)

	first := readAll(t, fd, c.change)
	c.check(t, first)
	require.Greater(t, c.steps, 10)
	for k := 0; k < len(first); k += len(first) / 50 { // seekdir, to what telldir said
		off := int64(0)
		if k > 0 {
			off = first[k-1].off
		}
		_, err := unix.Seek(fd, off, unix.SEEK_SET)
		require.NoError(t, err)
		piece := readPiece(t, fd, make([]byte, 4096))
		require.NoError(t, c.change())
		piece = append(piece, readPiece(t, fd, make([]byte, 4096))...)
		c.checkFrom(t, first[k:], piece)
	}
	_, err = unix.Seek(fd, 0, unix.SEEK_SET) // rewinddir
	require.NoError(t, err)
	c.check(t, readAll(t, fd, c.change))
	require.NoError(t, c.end())
}

// entryAt is a name of a directory, with the place behind it.
type entryAt struct {
	name string
	off  int64
}

func readAll(t *testing.T, fd int, between func() error) (all []entryAt) {
	buf := make([]byte, 64<<10)
	for k := 0; ; k++ {
		piece := readPiece(t, fd, buf)
		if len(piece) == 0 {
			return all
		}
		all = append(all, piece...)
		if k%4 == 0 { // each change makes the kernel ask for attributes, too, which takes long
			require.NoError(t, between())
		}
	}
}

func readPiece(t *testing.T, fd int, buf []byte) (list []entryAt) {
	n, err := unix.Getdents(fd, buf)
	require.NoError(t, err)
	for buf = buf[:n]; len(buf) > 0; {
		size := binary.NativeEndian.Uint16(buf[16:])
		name, _, _ := bytes.Cut(buf[19:size], []byte{0})
		list = append(list, entryAt{string(name), int64(binary.NativeEndian.Uint64(buf[8:]))})
		buf = buf[size:]
	}
	return list
}

// changer changes a directory step by step. Every bigStep-th name goes, is moved, comes
// up, or is another file; new ones come.
type changer struct {
	dir   string
	next  int // the name to change next
	steps int
	gone  map[string]bool // names that were not there all the time
}

func (c *changer) change() error {
	if c.steps == mostSteps {
		return nil
	}
	c.steps++
	var names [4]string
	for k := range names {
		names[k] = bigName(c.dir, c.next)
		c.next += bigStep
	}
	added := fmt.Sprintf("%s/new%d", c.dir, c.steps)
	temp := added + "t"
	for _, name := range []string{added, temp, added + "m", names[0], names[1]} {
		c.gone[filepath.Base(name)] = true
	}
	return errors.Join(
		unix.Mknod(added, unix.S_IFREG|0o644, 0),
		unix.Unlink(names[0]),
		unix.Rename(names[1], added+"m"),
		unix.Chmod(names[2], 0o600), // stays, and comes up
		unix.Mknod(temp, unix.S_IFREG|0o644, 0),
		unix.Rename(temp, names[3]), // stays, and is another file
		unix.Renameat2(unix.AT_FDCWD, names[2], unix.AT_FDCWD, names[3], unix.RENAME_EXCHANGE),
	)
}

// end takes the new names away.
func (c *changer) end() (err error) {
	for k := 1; k <= c.steps; k++ {
		added := fmt.Sprintf("%s/new%d", c.dir, k)
		err = errors.Join(err, unix.Unlink(added), unix.Unlink(added+"m"))
	}
	return err
}

// check: a whole reading has each name once, if it is still there.
func (c *changer) check(t *testing.T, all []entryAt) {
	t.Helper()
	seen := map[string]int{}
	for _, e := range all {
		if seen[e.name]++; seen[e.name] > 1 {
			t.Fatalf("%s was seen %d times", e.name, seen[e.name])
		}
	}
	for k := range bigDir {
		name := filepath.Base(bigName("", k))
		if seen[name] == 1 || seen[name] == 0 && k%bigStep == 0 && isGone(c.dir, name) {
			continue
		}
		t.Fatalf("%s was not seen", name)
	}
	require.Equal(t, 1, seen["."])
	require.Equal(t, 1, seen[".."])
}

func isGone(dir, name string) bool {
	return errors.Is(unix.Lstat(filepath.Join(dir, name), new(unix.Stat_t)), unix.ENOENT)
}

// checkFrom: got is how the names that stayed went on before.
func (c *changer) checkFrom(t *testing.T, before, got []entryAt) {
	t.Helper()
	stayed := func(list []entryAt) (names []string) {
		for _, e := range list {
			if !c.gone[e.name] {
				names = append(names, e.name)
			}
		}
		return names
	}
	names := stayed(got)
	require.Equal(t, stayed(before[:min(len(before), len(got)+1000)])[:len(names)], names)
}
