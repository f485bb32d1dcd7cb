package engine

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/container"
)

// LogsOptions are what `varve logs` asks for. Tail -1 is all lines.
type LogsOptions struct {
	Follow       bool
	Tail         int
	Since, Until string // moments in docker's forms; "" is none
}

// A LogEntry is a line, or a part of a long one, that a container has said.
type LogEntry struct {
	Log    string    `json:"log"` // with its end of line, if it has one
	Stream string    `json:"stream"`
	Time   time.Time `json:"time"`
}

// Logs calls fn with what a container has said, the oldest first; with Follow also with
// what it says from now on, until it ends. An error of fn ends it.
func (e *Engine) Logs(name string, opt LogsOptions, fn func(LogEntry) error) error {
	c, spec, err := e.container(name)
	if err != nil {
		return err
	}
	if spec.Log.Driver == container.LogNone {
		return errors.New("configured logging driver does not support reading: this container keeps no log (--log-driver none, or --rm in the foreground)")
	}
	r := &logReader{dir: e.store.ContainerDir(c.ID), fn: fn}
	now := time.Now()
	if r.since, err = optionalMoment(opt.Since, now); err != nil {
		return fmt.Errorf("invalid value for \"since\": %w", err)
	}
	if r.until, err = optionalMoment(opt.Until, now); err != nil {
		return fmt.Errorf("invalid value for \"until\": %w", err)
	}
	if opt.Follow {
		return r.follow(e, c.ID, opt.Tail)
	}
	_, err = r.all(spec.Log.MaxFiles, opt.Tail)
	return err
}

func optionalMoment(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := moment(text, now)
	if err != nil {
		return t, fmt.Errorf("failed to parse value as time or duration: %q: write it as in 2006-01-02T15:04:05, or how long ago, as in 10m", text)
	}
	return t, nil
}

// A logReader reads the files of a log.
type logReader struct {
	dir          string // of the container
	since, until time.Time
	fn           func(LogEntry) error
	line         func([]byte) error // what is done with each line; nil shows it
}

// errUntil: a line is later than what was asked for.
var errUntil = errors.New("until")

// all reads what is there, or the last lines of it, and returns the newest file, at
// its end; nil if there is none.
func (r *logReader) all(files, tail int) (*logTail, error) {
	parts, err := r.open(max(files, 1))
	if err != nil {
		return nil, err
	}
	var newest *logTail
	if n := len(parts); n > 0 {
		newest = &logTail{file: parts[n-1]}
		defer container.CloseAll(parts[:n-1])
	}
	skip := 0
	if tail >= 0 {
		if skip, err = r.linesBefore(parts, tail); err != nil {
			return newest, err
		}
	}
	for _, part := range parts {
		t := &logTail{file: part}
		if part == parts[len(parts)-1] {
			t = newest
		}
		err := t.read(func(line []byte) error {
			if skip > 0 {
				skip--
				return nil
			}
			return r.take(line)
		})
		if errors.Is(err, errUntil) {
			return newest, nil
		}
		if err != nil {
			return newest, err
		}
	}
	return newest, nil
}

// open opens the files of the log, the oldest first. While it does, they may be
// renamed: then it looks again.
func (r *logReader) open(most int) ([]*os.File, error) {
	for try := 0; ; try++ {
		var parts []*os.File
		var seen []os.FileInfo
		again := false
		for n := most; n >= 0; n-- {
			f, err := os.OpenFile(filepath.Join(r.dir, container.NumberedLog(n)), os.O_RDONLY|unix.O_NOFOLLOW, 0)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				container.CloseAll(parts)
				return nil, err
			}
			info, err := f.Stat()
			parts = append(parts, f)
			if err != nil {
				container.CloseAll(parts)
				return nil, err
			}
			for _, other := range seen {
				again = again || os.SameFile(info, other)
			}
			seen = append(seen, info)
		}
		if !again || try == 10 {
			return parts, nil
		}
		container.CloseAll(parts)
	}
}

// linesBefore is how many lines come before the last tail ones.
func (r *logReader) linesBefore(parts []*os.File, tail int) (int, error) {
	lines := 0
	for _, part := range parts {
		err := (&logTail{file: part}).read(func(line []byte) error {
			if r.since.IsZero() && r.until.IsZero() {
				lines++
				return nil
			}
			entry, ok := parseLogLine(line)
			if ok && !entry.Time.Before(r.since) && (r.until.IsZero() || !entry.Time.After(r.until)) {
				lines++
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
		if _, err := part.Seek(0, io.SeekStart); err != nil {
			return 0, err
		}
	}
	return max(0, lines-tail), nil
}

func parseLogLine(line []byte) (entry LogEntry, ok bool) {
	return entry, json.Unmarshal(line, &entry) == nil
}

// take does with a line what is wanted.
func (r *logReader) take(line []byte) error {
	if r.line != nil {
		return r.line(line)
	}
	return r.show(line)
}

// show hands on a line, if it was asked for. One that is torn is skipped: its
// supervisor was killed, or the disk was full.
func (r *logReader) show(line []byte) error {
	entry, ok := parseLogLine(line)
	if !ok || entry.Time.Before(r.since) {
		return nil
	}
	if !r.until.IsZero() && entry.Time.After(r.until) {
		return errUntil
	}
	return r.fn(entry)
}

// A logTail is a file of the log that is read as far as it goes.
type logTail struct {
	file *os.File
	rest []byte // the beginning of a line that is not all there
}

// read calls fn with each whole line that was not read before, without its end.
func (t *logTail) read(fn func([]byte) error) error {
	in := bufio.NewReaderSize(t.file, 64<<10)
	for {
		part, err := in.ReadSlice('\n')
		switch {
		case err == nil:
			line := part
			if len(t.rest) > 0 {
				line = append(t.rest, part...)
				t.rest = nil
			}
			if err := fn(bytes.TrimSuffix(line, []byte("\n"))); err != nil {
				return err
			}
		case errors.Is(err, bufio.ErrBufferFull):
			t.rest = append(t.rest, part...)
		case errors.Is(err, io.EOF):
			t.rest = append(t.rest, part...)
			return nil
		default:
			return err
		}
	}
}

// follow reads what is there, and then what comes, until the container has ended.
func (r *logReader) follow(e *Engine, id string, tail int) error {
	watch, err := watchDir(r.dir)
	if err != nil {
		return err
	}
	defer func() { _ = watch.Close() }() // an inotify instance
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if w, err := e.call(id, container.Request{Do: container.DoWait}); err == nil {
			_, _ = e.hearEnd(id, w) // how it ended is not asked for here
			w.Close()
		}
	}()
	spec, err := e.ReadSpec(id)
	if err != nil {
		return err
	}
	return r.allAndMore(spec.Log.MaxFiles, tail, watch, ended)
}

// allAndMore reads what is there, as all does, and then what comes, until over is closed:
// also what was written until then.
func (r *logReader) allAndMore(files, tail int, watch *dirWatch, over <-chan struct{}) error {
	newest, err := r.all(files, tail)
	for last := false; err == nil; {
		if newest, err = r.more(newest); err != nil || last {
			break
		}
		select {
		case <-over:
			last = true
		case <-watch.changed:
		case err = <-watch.failed:
		}
	}
	if newest != nil {
		_ = newest.file.Close() // only read
	}
	if errors.Is(err, errUntil) {
		return nil
	}
	return err
}

// more reads what was added, also in files that were begun since, and returns the
// newest.
func (r *logReader) more(t *logTail) (*logTail, error) {
	for {
		next := 0
		if t != nil {
			place, err := r.place(t)
			if err != nil {
				return t, err
			}
			if err := t.read(r.take); err != nil || place == 0 {
				return t, err
			}
			_ = t.file.Close() // only read, to its end
			t, next = nil, place-1
		}
		f, err := os.OpenFile(filepath.Join(r.dir, container.NumberedLog(next)), os.O_RDONLY|unix.O_NOFOLLOW, 0)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil // it is about to be made
		}
		if err != nil {
			return nil, err
		}
		t = &logTail{file: f}
	}
}

// place is the number that a file of the log has now. One that was dropped meanwhile
// is followed by the oldest that is there.
func (r *logReader) place(t *logTail) (int, error) {
	mine, err := t.file.Stat()
	if err != nil {
		return 0, err
	}
	for n := 0; ; n++ {
		now, err := os.Lstat(filepath.Join(r.dir, container.NumberedLog(n)))
		if errors.Is(err, fs.ErrNotExist) && n > 0 {
			return n, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
		if err == nil && os.SameFile(mine, now) {
			return n, nil
		}
	}
}

// A dirWatch tells of changes in a directory.
type dirWatch struct {
	file    *os.File
	changed chan struct{} // holds one
	failed  chan error
}

// watchDir begins to watch.
func watchDir(dir string) (*dirWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &dirWatch{os.NewFile(uintptr(fd), "inotify"), make(chan struct{}, 1), make(chan error, 1)}
	const events = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	if _, err := unix.InotifyAddWatch(fd, dir, events); err != nil {
		return nil, errors.Join(&os.PathError{Op: "inotify_add_watch", Path: dir, Err: err}, w.file.Close())
	}
	go w.read()
	return w, nil
}

func (w *dirWatch) read() {
	buf := make([]byte, 4<<10)
	for {
		if _, err := w.file.Read(buf); err != nil {
			w.failed <- err
			return
		}
		select {
		case w.changed <- struct{}{}:
		default: // it is known already
		}
	}
}

func (w *dirWatch) Close() error { return w.file.Close() }
