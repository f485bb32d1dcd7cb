package bench

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

const (
	bigFile   = "varve-bench.big" // in the lowest layer
	bigSize   = 64 << 20
	smallBig  = 1 << 20 // its size where it is enough to see that it works
	oneRead   = 128 << 10
	blockSize = 4 << 10
	appended  = 100
)

// dataRows are about the content of files.
func dataRows() []Row {
	return []Row{
		{"sequential write, a MiB", []Bar{f(0.6), through(1.1)}, (*client).writeMiBs, false},
		{"random 4 KiB write", []Bar{f(1.0), through(1.1)}, (*client).writeBlocks, false},
		{"append of 100 B", []Bar{f(1.0), through(1.1)}, (*client).appendLines, false},
		{"sequential read, warm, lower, a MiB", []Bar{k(1.05)}, readMiBs(bigFile), false},
		{"sequential read, warm, upper, a MiB", []Bar{k(1.05)}, readMiBs("read.seq"), false},
		{"random 4 KiB read, warm, lower", []Bar{k(1.05)}, readBlocks(bigFile), false},
		{"random 4 KiB read, warm, upper", []Bar{k(1.05)}, readBlocks("read.random"), false},
	}
}

// size is that of the big files.
func (c *client) size() int64 {
	if c.small {
		return smallBig
	}
	return bigSize
}

// onFile times op on the open file, and the close.
func onFile(path string, flags, n int, op func(fd, i int) error) (int, time.Duration, error) {
	fd, err := open(cwd, names([]string{path})[0], flags)
	if err != nil {
		return 0, 0, err
	}
	ops, took, err := timed(n, func(i int) error { return op(fd, i) })
	start := time.Now()
	err = errors.Join(err, closeFD(fd))
	return ops, took + time.Since(start), err
}

func (c *client) fill(path string) (int, time.Duration, error) {
	return onFile(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, int(c.size()>>20), func(fd, _ int) error {
		return write(fd, c.buf, -1)
	})
}

func (c *client) writeMiBs() (int, time.Duration, error) { return c.fill("write.seq") }

// block is where a random block of a big file begins.
func (c *client) block() int64 { return c.seed.Int64N(c.size()/blockSize) * blockSize }

func (c *client) writeBlocks() (int, time.Duration, error) {
	if _, _, err := c.fill("write.random"); err != nil {
		return 0, 0, err
	}
	return onFile("write.random", unix.O_WRONLY, c.some(5000), func(fd, _ int) error {
		return write(fd, c.buf[:blockSize], c.block())
	})
}

func (c *client) appendLines() (int, time.Duration, error) {
	return onFile("write.append", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_APPEND, c.some(5000), func(fd, _ int) error {
		return write(fd, c.buf[:appended], -1)
	})
}

// A rowFunc does the work of a row.
type rowFunc func(c *client) (ops int, took time.Duration, err error)

// readMiBs reads a file to its end three times, of which the last two count.
func readMiBs(path string) rowFunc {
	return func(c *client) (int, time.Duration, error) {
		if err := c.warm(path); err != nil {
			return 0, 0, err
		}
		n, took, err := onFile(path, unix.O_RDONLY, 2*c.pieces(), c.readPiece)
		return n * oneRead >> 20, took, err
	}
}

// readBlocks reads from all over a file.
func readBlocks(path string) rowFunc {
	return func(c *client) (int, time.Duration, error) {
		if err := c.warm(path); err != nil {
			return 0, 0, err
		}
		return onFile(path, unix.O_RDONLY, c.some(40000), func(fd, _ int) error {
			return read(fd, c.buf[:blockSize], c.block())
		})
	}
}

// warm reads a file twice, which it makes unless it is that of the layers: with its
// second read a page becomes an active one, which costs more than the read (three
// times the instructions, in every file system), and only once.
func (c *client) warm(path string) error {
	if path != bigFile {
		if _, _, err := c.fill(path); err != nil {
			return err
		}
	}
	_, _, err := onFile(path, unix.O_RDONLY, 2*c.pieces(), c.readPiece)
	return err
}

// pieces is how many reads a big file takes.
func (c *client) pieces() int { return int(c.size() / oneRead) }

// readPiece begins anew at the end.
func (c *client) readPiece(fd, i int) error {
	return read(fd, c.buf[:oneRead], int64(i%c.pieces())*oneRead)
}
