package bench

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Row is one operation of the table.
type Row struct {
	Name string
	// What the ratios may be at most.
	Bars []Bar

	run rowFunc
	// cold is a row that the walk, with which a visit begins, must not precede.
	cold bool
}

// Bar is the most that a ratio may be: that of Of, one of ours, to Peer.
type Bar struct {
	Of, Peer string
	Most     float64
}

// k and f are bars of the default mode: to kernel overlayfs, to fuse-overlayfs.
func k(most float64) Bar { return Bar{varve, overlayfs, most} }
func f(most float64) Bar { return Bar{varve, fuseOverlayfs, most} }

// through is a bar of passthrough, and indexed one of a view with an index.
func through(most float64) Bar { return Bar{varveThrough, overlayfs, most} }
func indexed(most float64) Bar { return Bar{varveIndex, overlayfs, most} }

// A group is rows that follow each other on one mount of one kind of stack.
type group struct {
	name   string
	layers int
	rows   []Row
}

// groups are all rows. "First time" is the first time after the walk, which every
// visit begins with: the names are known, and no file was open.
func groups() []group {
	return []group{
		{"names known", 8, []Row{
			{"first walk, an entry", []Bar{k(1.2), f(0.35)}, (*client).walk, true},
			{"second walk, an entry", []Bar{k(1.3)}, (*client).walk, false},
			{"lstat, warm", []Bar{k(1.0)}, (*client).lstatWarm, false},
			{"absent name, first time", []Bar{k(4), f(0.85)}, (*client).absentFirst, false},
			{"absent name, again", []Bar{k(1.1)}, (*client).absentAgain, false},
			{"readdir, warm", []Bar{k(0.8)}, (*client).readdirWarm, false},
			{"open+read+close, first time", []Bar{k(6), f(0.85)}, (*client).readFirst, false},
			{"open+read+close, again", []Bar{k(1.1)}, (*client).readAgain, false},
		}},
		{"names changed", 8, []Row{
			{"create 1 KiB", []Bar{f(0.65)}, (*client).create, false},
			{"chmod", []Bar{f(1.0)}, (*client).chmod, false},
			{"rename", []Bar{f(0.55)}, (*client).rename, false},
			{"unlink, upper", []Bar{f(0.55)}, (*client).unlinkUpper, false},
			{"unlink, lower", []Bar{f(0.55)}, (*client).unlinkLower, false},
			{"mkdir+rmdir", []Bar{f(0.8)}, (*client).mkdirRmdir, false},
			{"copy-up by a 1-byte append", []Bar{f(0.75)}, (*client).copyUp, false},
		}},
		{"data", 8, dataRows()},
		{"64 layers", 64, []Row{
			{"first walk of 64 layers, an entry", []Bar{indexed(0.5)}, (*client).walk, true},
			{"absent name of 64 layers, first time", []Bar{indexed(1.0)}, (*client).absentFirst, false},
		}},
	}
}

// rowsNamed are the rows with these names, in the order of the table.
func rowsNamed(list []string) (rows []Row) {
	for _, g := range groups() {
		rows = append(rows, slices.DeleteFunc(g.rows, func(r Row) bool { return !slices.Contains(list, r.Name) })...)
	}
	return rows
}

// walk visits every directory below the root, and asks for the attributes of each
// name, as find and du do.
func (c *client) walk() (int, time.Duration, error) {
	start := time.Now()
	fd, err := open(cwd, names([]string{"."})[0], unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return 0, 0, err
	}
	entries, err := walkDir(fd)
	if err == nil && entries != len(c.items) {
		err = fmt.Errorf("%d entries instead of %d", entries, len(c.items))
	}
	return entries, time.Since(start), err
}

// walkDir closes fd.
func walkDir(fd int) (entries int, err error) {
	buf := make([]byte, 32<<10)
	var st unix.Statx_t
	var below []string
	err = readdir(fd, buf, func(n name, kind byte) error {
		entries++
		if kind == unix.DT_DIR {
			below = append(below, text(n))
		}
		return pathError("lstat", n, lstat(fd, n, &st))
	})
	for _, n := range names(below) {
		if err != nil {
			break
		}
		var child, more int
		if child, err = open(fd, n, unix.O_RDONLY|unix.O_DIRECTORY); err == nil {
			more, err = walkDir(child)
			entries += more
		}
	}
	return entries, errors.Join(err, closeFD(fd))
}

// paths lists what take says of each item, in a random order that is the same for
// every peer.
func (c *client) paths(most int, take func(i item) bool) []string {
	var list []string
	for _, i := range c.items {
		if take(i) {
			list = append(list, i.Path)
		}
	}
	c.seed.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:min(len(list), most)]
}

func all(item) bool     { return true }
func isDir(i item) bool { return i.Kind == "d" }

// isSmall is a file that is read whole with one call, and that has one name.
func isSmall(i item) bool { return i.Kind == "f" && i.One && i.Size > 0 && i.Size < 64<<10 }

func (c *client) lstatWarm() (int, time.Duration, error) {
	list := names(c.paths(len(c.items), all))
	var st unix.Statx_t
	return again(len(list), func(i int) error { return pathError("lstat", list[i], lstat(cwd, list[i], &st)) })
}

// absent asks for a name beside each file that is not there.
func (c *client) absent(suffix string) func(i int) error {
	paths := c.paths(len(c.items), all)
	for i := range paths {
		paths[i] += suffix
	}
	list := names(paths)
	var st unix.Statx_t
	return func(i int) error {
		if errno := lstat(cwd, list[i], &st); errno != unix.ENOENT {
			return fmt.Errorf("lstat of %s, which is absent: %w", text(list[i]), errno)
		}
		return nil
	}
}

func (c *client) absentFirst() (int, time.Duration, error) {
	return timed(len(c.items), c.absent(".first"))
}

func (c *client) absentAgain() (int, time.Duration, error) {
	return again(len(c.items), c.absent(".again"))
}

func (c *client) readdirWarm() (int, time.Duration, error) {
	list := names(c.paths(len(c.items), isDir))
	buf := make([]byte, 32<<10)
	return again(len(list), func(i int) error {
		fd, err := open(cwd, list[i], unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		return errors.Join(readdir(fd, buf, func(name, byte) error { return nil }), closeFD(fd))
	})
}

// readSmall reads each small file whole.
func (c *client) readSmall() (int, func(i int) error) {
	sizes := map[string]int64{}
	for _, i := range c.items {
		sizes[i.Path] = i.Size
	}
	paths := c.paths(len(c.items), isSmall)
	list := names(paths)
	size := make([]int64, len(list))
	for i, p := range paths {
		size[i] = sizes[p]
	}
	return len(list), func(i int) error {
		fd, err := open(cwd, list[i], unix.O_RDONLY)
		if err != nil {
			return err
		}
		return errors.Join(read(fd, c.buf[:size[i]], -1), closeFD(fd))
	}
}

func (c *client) readFirst() (int, time.Duration, error) { return timed(c.readSmall()) }
func (c *client) readAgain() (int, time.Duration, error) { return again(c.readSmall()) }

// fresh names n files that do not exist, in twenty directories of the layers that
// have been brought up by a first one; the names begin with what.
func (c *client) fresh(what string, n int) ([]name, error) {
	var dirs, list []string
	for i, file := range c.paths(20, isSmall) {
		dirs = append(dirs, path.Dir(file))
		first := fmt.Sprintf("%s/%s.first%d", dirs[i], what, i)
		if err := os.WriteFile(first, nil, 0o644); err != nil {
			return nil, err
		}
	}
	if len(dirs) == 0 {
		return nil, errors.New("the tree has no small file")
	}
	for i := range n {
		list = append(list, fmt.Sprintf("%s/%s%d", dirs[i%len(dirs)], what, i))
	}
	return names(list), nil
}

// made is fresh with the files made.
func (c *client) made(what string, n int) ([]name, error) {
	list, err := c.fresh(what, n)
	for i := 0; err == nil && i < len(list); i++ {
		err = c.writeNew(list[i])
	}
	return list, err
}

func (c *client) writeNew(n name) error {
	fd, err := open(cwd, n, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY)
	if err != nil {
		return err
	}
	return errors.Join(write(fd, c.buf[:1<<10], -1), closeFD(fd))
}

// changed is the number of files that a row which changes names works on.
const changed = 1000

// each times op on list, which is of what err says nothing.
func each(list []name, err error, op func(n name) error) (int, time.Duration, error) {
	if err != nil {
		return 0, 0, err
	}
	return timed(len(list), func(i int) error { return op(list[i]) })
}

func (c *client) create() (int, time.Duration, error) {
	list, err := c.fresh("create", c.some(changed))
	return each(list, err, c.writeNew)
}

func (c *client) chmod() (int, time.Duration, error) {
	list, err := c.made("chmod", c.some(changed))
	return each(list, err, func(n name) error { return change(unix.SYS_FCHMODAT, n, 0o600) })
}

func (c *client) rename() (int, time.Duration, error) {
	list, err := c.made("rename", c.some(changed))
	to := make([]string, len(list))
	for i, n := range list {
		to[i] = text(n) + ".to"
	}
	targets, at := names(to), 0
	return each(list, err, func(n name) error {
		at++
		return rename(n, targets[at-1])
	})
}

func unlink(n name) error { return change(unix.SYS_UNLINKAT, n, 0) }

func (c *client) unlinkUpper() (int, time.Duration, error) {
	list, err := c.made("unlink", c.some(changed))
	return each(list, err, unlink)
}

// half tells which of two rows a file of the layers is for.
func half(i item) bool { return i.Size%2 == 0 }

func (c *client) unlinkLower() (int, time.Duration, error) {
	list := names(c.paths(c.some(changed), func(i item) bool { return isSmall(i) && half(i) }))
	return each(list, nil, unlink)
}

func (c *client) mkdirRmdir() (int, time.Duration, error) {
	list, err := c.fresh("mkdir", c.some(changed))
	return each(list, err, func(n name) error {
		return errors.Join(change(unix.SYS_MKDIRAT, n, 0o755), change(unix.SYS_UNLINKAT, n, unix.AT_REMOVEDIR))
	})
}

// copyUp includes the directories on the way to the files.
func (c *client) copyUp() (int, time.Duration, error) {
	list := names(c.paths(c.some(changed), func(i item) bool { return isSmall(i) && !half(i) }))
	return each(list, nil, func(n name) error {
		fd, err := open(cwd, n, unix.O_WRONLY|unix.O_APPEND)
		if err != nil {
			return err
		}
		return errors.Join(write(fd, c.buf[:1], -1), closeFD(fd))
	})
}

// RowNames lists the operations of the table.
func RowNames() (list []string) {
	for _, g := range groups() {
		for _, r := range g.rows {
			list = append(list, r.Name)
		}
	}
	return list
}
