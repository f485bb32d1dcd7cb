package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// EventsName is the directory of the store in which all that happens to containers and
// images is noted, in files as those of a container's log: the newest is log.jsonl.
const EventsName = "events"

// EventsSize is how long a file of events may be; there are two.
const EventsSize = 1 << 20

// The types of events.
const (
	OfContainer = "container"
	OfImage     = "image"
)

// An EventLine is an event as it is noted: what is known of its container anyway is left
// out.
type EventLine struct {
	Time       time.Time         `json:"time"`
	Type       string            `json:"type"`
	Action     string            `json:"action"`
	ID         string            `json:"id"`
	Attributes map[string]string `json:"attributes,omitempty"`
}

// NoteContainer notes what has happened to a container; attributes may be nil.
func (p Place) NoteContainer(id, action string, attributes map[string]string) {
	p.Note(EventLine{time.Now(), OfContainer, action, id, attributes})
}

// Bounds of one event, since command lines and labels have none that would fit.
const (
	LongestAction = 4 << 10
	LongestEvent  = 64 << 10
)

// Note writes one line at the end of the newest file, with one call and no sync. What can
// not be noted, as on a full disk, is not: the verb has done its work.
func (p Place) Note(line EventLine) {
	if len(line.Action) > LongestAction {
		line.Action = strings.ToValidUTF8(line.Action[:LongestAction], "") + "…"
	}
	raw, err := json.Marshal(line)
	if err == nil && len(raw) > LongestEvent {
		line.Attributes = map[string]string{"image": line.Attributes["image"], "name": line.Attributes["name"]}
		raw, err = json.Marshal(line)
	}
	if err != nil {
		return // strings and a time
	}
	_ = appendEvent(filepath.Join(p.Root(), EventsName), append(raw, '\n')) // as said
}

// appendEvent writes to the file that has the name while it holds a shared lock on it, so
// that nobody else exchanges it meanwhile. Who finds it long enough moves it away.
func appendEvent(dir string, line []byte) error {
	name := filepath.Join(dir, NumberedLog(0))
	for range 10 {
		f, err := openEvents(dir, name)
		if err != nil {
			return err
		}
		done, err := writeEvent(f, name, line)
		if err = errors.Join(err, f.Close()); done || err != nil {
			return err
		}
	}
	return errors.New("the file of events is exchanged again and again")
}

func openEvents(dir, name string) (*os.File, error) {
	const flags = os.O_WRONLY | os.O_APPEND | os.O_CREATE | unix.O_NOFOLLOW
	f, err := os.OpenFile(name, flags, 0o600)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.OpenFile(name, flags, 0o600)
}

// writeEvent writes the line; false means that the file has another name now.
func writeEvent(f *os.File, name string, line []byte) (done bool, err error) {
	fd := int(f.Fd())
	if err := unix.Flock(fd, unix.LOCK_SH); err != nil {
		return false, fmt.Errorf("lock the events: %w", err)
	}
	var mine, there unix.Stat_t
	if err := unix.Fstat(fd, &mine); err != nil {
		return false, err
	}
	if err := unix.Lstat(name, &there); err != nil || there.Ino != mine.Ino || there.Dev != mine.Dev {
		return false, nil
	}
	if _, err := f.Write(line); err != nil {
		return true, err
	}
	if mine.Size+int64(len(line)) < EventsSize {
		return true, nil
	}
	// The lock is let go and taken anew, so another may come first, and do it.
	if err := unix.Flock(fd, unix.LOCK_EX); err != nil {
		return true, err
	}
	if err := unix.Lstat(name, &there); err != nil || there.Ino != mine.Ino {
		return true, nil
	}
	return true, os.Rename(name, filepath.Join(filepath.Dir(name), NumberedLog(1)))
}
