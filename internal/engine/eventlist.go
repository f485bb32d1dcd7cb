package engine

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/varvefs/varve/internal/container"
)

// An Event is what has happened to a container or an image, in docker's shape.
type Event struct {
	Status   string     `json:"status,omitempty"` // as Action
	ID       string     `json:"id,omitempty"`     // as Actor.ID
	From     string     `json:"from,omitempty"`   // the image
	Type     string     `json:"Type"`
	Action   string     `json:"Action"`
	Actor    EventActor `json:"Actor"`
	Scope    string     `json:"scope,omitempty"`
	Time     int64      `json:"time,omitempty"`     // seconds since 1970
	TimeNano int64      `json:"timeNano,omitempty"` // nanoseconds
}

// An EventActor is whom it has happened to.
type EventActor struct {
	ID         string            `json:"ID"`
	Attributes map[string]string `json:"Attributes"`
}

// EventOptions are what `varve events` asks for.
type EventOptions struct {
	Since, Until string   // moments in docker's forms; "" is from now on, and without end
	Filters      []string // KEY=VALUE
}

// Events calls fn with what has happened since a moment, the oldest first, and then with
// what happens, up to a moment. An error of fn ends it.
func (e *Engine) Events(opt EventOptions, fn func(Event) error) error {
	filters, err := parseFilters(opt.Filters, "container", "daemon", "event", "image", "label", "network", "scope", "type", "volume")
	if err != nil {
		return err
	}
	l := &eventList{filters: filters, fn: fn, known: map[string]map[string]string{}}
	now := time.Now()
	if l.since, err = optionalMoment(opt.Since, now); err == nil {
		l.until, err = optionalMoment(opt.Until, now)
	}
	if err != nil {
		return err
	}
	if l.since.IsZero() {
		l.since = now
	}
	if err := l.learn(e); err != nil {
		return err
	}
	dir := filepath.Join(e.Root(), container.EventsName)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return l.read(dir, now)
}

// An eventList shows those events that are asked for.
type eventList struct {
	filters      filters
	since, until time.Time
	fn           func(Event) error
	// known are the attributes of containers: of those that are here, and of those
	// whose making was noted.
	known map[string]map[string]string
}

// learn finds out about the containers that are here.
func (l *eventList) learn(e *Engine) error {
	list, err := e.Containers()
	if err != nil {
		return err
	}
	for _, c := range list {
		spec, err := e.ReadSpec(c.ID)
		if err != nil {
			continue // removed at this moment
		}
		l.known[c.ID] = noteLabels(spec.Config.Labels, c.ImageName, c.Name)
	}
	return nil
}

// read reads what was noted, and goes on until the last moment that is asked for.
func (l *eventList) read(dir string, now time.Time) error {
	watch, err := watchDir(dir)
	if err != nil {
		return err
	}
	defer func() { _ = watch.Close() }() // an inotify instance
	ctx := context.Background()
	if !l.until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.until.Sub(now))
		defer cancel()
	}
	r := &logReader{dir: dir, line: l.show}
	return r.allAndMore(1, -1, watch, ctx.Done())
}

// show hands on a line, if it was asked for. One that is torn is skipped.
func (l *eventList) show(raw []byte) error {
	var line container.EventLine
	if json.Unmarshal(raw, &line) != nil {
		return nil
	}
	if line.Type == container.OfContainer {
		l.complete(&line)
	}
	if line.Time.Before(l.since) {
		return nil
	}
	if !l.until.IsZero() && line.Time.After(l.until) {
		return errUntil
	}
	ev := toldEvent(&line)
	if !l.wanted(&ev) {
		return nil
	}
	return l.fn(ev)
}

// complete adds what is known of the container, and learns what the line says of it.
func (l *eventList) complete(line *container.EventLine) {
	all := maps.Clone(l.known[line.ID])
	switch {
	case all == nil:
		all = map[string]string{}
	case line.Action == "rename":
		l.known[line.ID]["name"] = line.Attributes["name"]
	}
	maps.Copy(all, line.Attributes)
	if line.Action == "create" {
		l.known[line.ID] = maps.Clone(all)
	}
	line.Attributes = all
}

func toldEvent(line *container.EventLine) Event {
	if line.Attributes == nil {
		line.Attributes = map[string]string{}
	}
	from := line.Attributes["image"]
	if line.Type == container.OfImage {
		from = ""
	}
	return Event{
		Status: line.Action, ID: line.ID, From: from, Type: line.Type, Action: line.Action,
		Actor: EventActor{line.ID, line.Attributes}, Scope: "local", Time: line.Time.Unix(), TimeNano: line.Time.UnixNano(),
	}
}

// wanted tells whether the filters let an event through: of one key any, of all keys one.
func (l *eventList) wanted(ev *Event) bool {
	word, _, _ := strings.Cut(ev.Action, ":")
	name := ev.Actor.Attributes["name"]
	for key, values := range l.filters {
		var fits func(string) bool
		switch key {
		case "type":
			fits = func(v string) bool { return v == ev.Type }
		case "event":
			fits = func(v string) bool { return v == word || v == ev.Action }
		case "container":
			fits = func(v string) bool {
				return ev.Type == container.OfContainer && v != "" && (strings.HasPrefix(name, v) || strings.HasPrefix(ev.ID, v))
			}
		case "image":
			fits = func(v string) bool {
				return sameImage(v, ev.From) || ev.Type == container.OfImage && (sameImage(v, name) || sameImage(v, ev.ID))
			}
		case "scope":
			fits = func(v string) bool { return v == ev.Scope }
		case "label":
			if !l.filters.labels(ev.Actor.Attributes) {
				return false
			}
			continue
		default: // there is none of these
			return false
		}
		if !slices.ContainsFunc(values, fits) {
			return false
		}
	}
	return true
}

// sameImage tells whether two names are of one image, as far as that can be told of names.
func sameImage(asked, name string) bool {
	if asked == name {
		return true
	}
	withoutTag, _, _ := strings.Cut(name, ":")
	return asked == withoutTag || strings.TrimPrefix(name, "sha256:") == strings.TrimPrefix(asked, "sha256:")
}
