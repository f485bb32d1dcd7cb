package engine

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/varvefs/varve/layerdb"
)

// filters are what was asked of a list with -f KEY=VALUE, by key.
type filters map[string][]string

// parseFilters reads -f options and refuses keys that the list does not have.
func parseFilters(list []string, known ...string) (filters, error) {
	f := filters{}
	for _, text := range list {
		key, value, has := strings.Cut(text, "=")
		if !has {
			return nil, fmt.Errorf("invalid argument %q for \"-f, --filter\" flag: bad format of filter (expected name=value)", text)
		}
		if key = strings.ToLower(strings.TrimSpace(key)); !slices.Contains(known, key) {
			return nil, fmt.Errorf("invalid filter '%s': there are %s", key, strings.Join(known, ", "))
		}
		f[key] = append(f[key], strings.TrimSpace(value))
	}
	return f, nil
}

// flag reads a filter of true and false; ok is false if it was not asked for.
func (f filters) flag(key string) (value, ok bool, err error) {
	for _, text := range f[key] {
		if value, err = strconv.ParseBool(text); err != nil {
			return false, false, fmt.Errorf("invalid filter '%s=%s': it is true or false", key, text)
		}
		ok = true
	}
	return value, ok, nil
}

// checkContainers refuses values that no container can have.
func (f filters) checkContainers() error {
	known := map[string][]string{
		"status": {"created", "running", "paused", "restarting", "removing", "exited", "dead"},
		"health": {"none", "starting", "healthy", "unhealthy"},
	}
	for key, values := range known {
		for _, v := range f[key] {
			if !slices.Contains(values, v) {
				return fmt.Errorf("invalid filter '%s=%s': there are %s", key, v, strings.Join(values, ", "))
			}
		}
	}
	for _, v := range f["exited"] {
		if _, err := strconv.Atoi(v); err != nil {
			return err
		}
	}
	isTask, _, err := f.flag("is-task")
	if err == nil && isTask { // of a swarm, which is not there
		f["id"] = []string{"none"}
	}
	return err
}

// containerTimes puts the moments when they were created in the place of the containers
// of the filters before and since.
func (f filters) containerTimes(tx *layerdb.Tx) error {
	for _, key := range []string{"before", "since"} {
		for i, name := range f[key] {
			c, err := tx.FindContainer(name)
			if err != nil {
				return err
			}
			f[key][i] = c.Created.Format(time.RFC3339Nano)
		}
	}
	return nil
}

// inTime tells whether what was created then is as old as was asked for, after
// containerTimes.
func (f filters) inTime(created time.Time) bool {
	for _, text := range f["before"] {
		if t, err := time.Parse(time.RFC3339Nano, text); err != nil || !created.Before(t) {
			return false
		}
	}
	for _, text := range f["since"] {
		if t, err := time.Parse(time.RFC3339Nano, text); err != nil || !created.After(t) {
			return false
		}
	}
	return true
}

// labels tells whether labels have all that was asked for: NAME, or NAME=VALUE.
func (f filters) labels(labels map[string]string) bool {
	return !slices.ContainsFunc(f["label"], func(text string) bool { return !hasLabel(labels, text) }) &&
		!slices.ContainsFunc(f["label!"], func(text string) bool { return hasLabel(labels, text) })
}

func hasLabel(labels map[string]string, text string) bool {
	name, want, hasValue := strings.Cut(text, "=")
	value, ok := labels[name]
	return ok && (!hasValue || value == want)
}

// until reads the filter of that name: the moment before which a thing must have
// been made, zero if it was not asked for.
func (f filters) until(now time.Time) (time.Time, error) {
	var limit time.Time
	for _, text := range f["until"] {
		t, err := moment(text, now)
		if err != nil {
			return limit, fmt.Errorf("invalid filter 'until=%s': it is a time, as in 2006-01-02T15:04:05, or how long ago, as in 24h", text)
		}
		limit = t
	}
	return limit, nil
}

// moment reads a time in docker's forms: a duration before now, seconds since 1970,
// or a date.
func moment(text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil && text != "0" { // that is of 1970, too
		return now.Add(-d), nil
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Unix(n, 0), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02Z07:00"} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.ParseInLocation("2006-01-02", text, now.Location())
}

// filterImages keeps the images, and the names of each, that were asked for.
func filterImages(tx *layerdb.Tx, list []ImageInfo, f filters) ([]ImageInfo, error) {
	dangling, asked, err := f.flag("dangling")
	if err != nil {
		return nil, err
	}
	before, since, err := f.bounds(tx)
	if err != nil {
		return nil, err
	}
	kept := list[:0]
	for _, i := range list {
		switch {
		case asked && dangling != (len(i.Refs) == 0),
			!before.IsZero() && !i.Created.Before(before),
			!since.IsZero() && !i.Created.After(since):
			continue
		}
		ok, err := f.imageLabels(i)
		if err != nil {
			return nil, err
		}
		if ok && f.references(&i) {
			kept = append(kept, i)
		}
	}
	return kept, nil
}

// bounds are when the images of the filters before and since were made.
func (f filters) bounds(tx *layerdb.Tx) (before, since time.Time, err error) {
	for _, name := range f["before"] {
		i, err := lookImage(tx, name)
		if err != nil {
			return before, since, err
		}
		if before.IsZero() || i.Created.Before(before) {
			before = i.Created
		}
	}
	for _, name := range f["since"] {
		i, err := lookImage(tx, name)
		if err != nil {
			return before, since, err
		}
		if i.Created.After(since) {
			since = i.Created
		}
	}
	return before, since, nil
}

func (f filters) imageLabels(i ImageInfo) (bool, error) {
	if len(f["label"]) == 0 && len(f["label!"]) == 0 {
		return true, nil
	}
	config, err := parseConfig(layerdb.Image{ID: i.ID, Config: i.config})
	return f.labels(config.Config.Labels), err
}

// references leaves the names of an image that match a pattern, if any was asked
// for. ok is false if none is left.
func (f filters) references(i *ImageInfo) (ok bool) {
	if len(f["reference"]) == 0 {
		return true
	}
	i.Refs = slices.DeleteFunc(slices.Clone(i.Refs), func(ref string) bool {
		return !slices.ContainsFunc(f["reference"], func(pattern string) bool { return matchRef(pattern, ref) })
	})
	return len(i.Refs) > 0
}

// matchRef holds a name against a pattern with or without a tag.
func matchRef(pattern, ref string) bool {
	repo, tag := layerdb.RepoTag(ref)
	for _, name := range []string{repo, repo + ":" + tag} {
		if ok, err := path.Match(pattern, name); ok && err == nil {
			return true
		}
	}
	return false
}
