package container

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// LogName is a container's log in its directory; older parts have a number behind it.
const LogName = "log.jsonl"

// A LogFile is what a container has said, in docker's json-file form: a line of
// JSON for each line, with its stream and time. When it has grown to its limit it
// is put aside as log.jsonl.1, that as log.jsonl.2, and so on.
//
// What can not be written, as on a full disk, is lost, and the container goes on.
type LogFile struct {
	dir   int   // of the container
	limit int64 // bytes of one file; 0 is none
	keep  int   // files, with the one that is written

	mu    sync.Mutex // guards all below
	file  *os.File
	size  int64
	lines [2]pendingLine // of stdout and stderr
	out   []byte         // one batch, encoded
}

// A pendingLine is the beginning of a line.
type pendingLine struct{ text []byte }

// The streams of a program, as indices.
const (
	StreamOut = iota
	StreamErr
)

// streamNames are the words of the log.
func streamName(stream int) string { return [...]string{"stdout", "stderr"}[stream] }

// LongestLogLine is where docker cuts a line in two.
const LongestLogLine = 16 << 10

// OpenLog opens the log in the directory behind dir, which stays the caller's.
func OpenLog(dir int, opt LogOptions) (*LogFile, error) {
	l := &LogFile{dir: dir, limit: opt.MaxSize, keep: max(1, opt.MaxFiles)}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("open the container's log: %w", err)
	}
	return l, nil
}

// open goes on with the file that is there. A link is not followed.
func (l *LogFile) open() error {
	fd, err := at.Open(l.dir, LogName, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	l.file = os.NewFile(uintptr(fd), LogName)
	info, err := l.file.Stat()
	if err != nil {
		return errors.Join(err, l.file.Close())
	}
	l.size = info.Size()
	return nil
}

// Write adds what a stream has said at one moment.
func (l *LogFile) Write(stream int, text []byte, now time.Time) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	rest := &l.lines[stream]
	l.out = l.out[:0]
	stamp := now.UTC().AppendFormat(nil, time.RFC3339Nano)
	for len(text) > 0 {
		n := bytes.IndexByte(text, '\n') + 1
		whole := n > 0
		if !whole {
			n = len(text)
		}
		if room := LongestLogLine - len(rest.text); n > room {
			n, whole = room, true
		}
		switch {
		case !whole:
			rest.text = append(rest.text, text[:n]...)
		case len(rest.text) == 0: // the most, and without a copy
			l.out = AppendLogLine(l.out, text[:n], stream, stamp)
		default:
			rest.text = append(rest.text, text[:n]...)
			l.out = AppendLogLine(l.out, rest.text, stream, stamp)
			rest.text = rest.text[:0]
		}
		text = text[n:]
		if int64(len(l.out)) >= 256<<10 {
			l.flushLocked()
		}
	}
	l.flushLocked()
}

// Finish writes what has no end of line yet, as at the end of a stream.
func (l *LogFile) Finish(stream int, now time.Time) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	rest := &l.lines[stream]
	if len(rest.text) > 0 {
		l.out = AppendLogLine(l.out[:0], rest.text, stream, now.UTC().AppendFormat(nil, time.RFC3339Nano))
		l.flushLocked()
	}
	rest.text = nil
}

func (l *LogFile) flushLocked() {
	if len(l.out) == 0 {
		return
	}
	if l.limit > 0 && l.size > 0 && l.size+int64(len(l.out)) > l.limit {
		l.rotateLocked()
	}
	n, _ := l.file.Write(l.out) // the container goes on without
	l.size += int64(n)
	l.out = l.out[:0]
	if cap(l.out) > 1<<20 { // after a burst of lines that had to be escaped
		l.out = nil
	}
}

// rotateLocked begins a new file. If that can not be, the old one goes on.
func (l *LogFile) rotateLocked() {
	for n := l.keep - 1; n > 0; n-- {
		err := at.Rename(l.dir, NumberedLog(n-1), l.dir, NumberedLog(n), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return
		}
	}
	if l.keep == 1 {
		_ = at.Unlink(l.dir, LogName) // if it stays, it grows
	}
	old := l.file
	if l.open() != nil {
		l.file = old
		return
	}
	_ = old.Close() // what was not written is lost either way
}

// NumberedLog is the name of the nth part, the newest of which is 0.
func NumberedLog(n int) string {
	if n == 0 {
		return LogName
	}
	return LogName + "." + strconv.Itoa(n)
}

func (l *LogFile) Close() {
	if l != nil {
		_ = l.file.Close() // likewise
	}
}

// AppendLogLine appends {"log":…,"stream":…,"time":…} as docker spells it.
func AppendLogLine(out, text []byte, stream int, stamp []byte) []byte {
	out = append(out, `{"log":"`...)
	out = appendEscaped(out, text)
	out = append(out, `","stream":"`...)
	out = append(out, streamName(stream)...)
	out = append(out, `","time":"`...)
	out = append(out, stamp...)
	return append(out, "\"}\n"...)
}

// isPlain tells whether a byte stands for itself in a string of JSON; docker escapes
// those of HTML, too.
func isPlain(c byte) bool {
	const (
		low  uint64 = 0xffffffff_00000000 &^ (1<<'"' | 1<<'&' | 1<<'<' | 1<<'>')
		high uint64 = (1<<(0x7f-64) - 1) &^ (1 << ('\\' - 64))
	)
	switch {
	case c < 64:
		return low>>c&1 != 0
	case c < utf8.RuneSelf:
		return high>>(c-64)&1 != 0
	}
	return false
}

// appendEscaped appends text as the inside of a string of JSON. Bytes that are no
// UTF-8 become U+FFFD, as docker's.
func appendEscaped(out, text []byte) []byte {
	const hex = "0123456789abcdef"
	for len(text) > 0 {
		n := 0
		for n < len(text) && isPlain(text[n]) {
			n++
		}
		out = append(out, text[:n]...)
		if text = text[n:]; len(text) == 0 {
			break
		}
		c := text[0]
		size := 1
		switch {
		case c == '\n':
			out = append(out, `\n`...)
		case c == '\r':
			out = append(out, `\r`...)
		case c == '\t':
			out = append(out, `\t`...)
		case c == '"' || c == '\\':
			out = append(out, '\\', c)
		case c < utf8.RuneSelf:
			out = append(out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			var r rune
			r, size = utf8.DecodeRune(text)
			switch {
			case r == utf8.RuneError && size == 1:
				out = append(out, `\ufffd`...)
			case r == '\u2028' || r == '\u2029':
				out = append(out, `\u202`...)
				out = append(out, hex[r&15])
			default:
				out = append(out, text[:size]...)
			}
		}
		text = text[size:]
	}
	return out
}
