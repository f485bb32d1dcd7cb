package bench

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// memoryGroup is the last group: what a server keeps in memory after a walk.
const memoryGroup = "server memory"

// memoryDirs directories of forty files each are walked: 200,000 files.
const (
	memoryDirs  = 5000
	memoryLimit = 60 << 20 // of a server with an index
)

// Memory is what one server keeps after the walk, in bytes: all its pages, and its
// part of those it shares.
type Memory struct {
	Peer     string
	RSS, PSS int64
}

// memory measures every server that is a process.
func (r *run) memory() error {
	dirs := memoryDirs
	if r.Small {
		dirs = 10
	}
	r.say("%s: %d files", memoryGroup, dirs*40)
	fill := r.Fill
	r.Fill = SmallTree(dirs)
	defer func() { r.Fill = fill }()
	if err := r.dropStack(); err != nil {
		return err
	}
	s, err := r.layered(8)
	if err != nil {
		return err
	}
	for _, p := range peers(r.Varve) {
		if !p.in(memoryGroup) || !wanted(r.Peers, p.name) || p.name == plain || p.name == overlayfs {
			continue
		}
		m, err := walkedBy(p, s)
		switch {
		case err == nil:
			r.report.Memory = append(r.report.Memory, m)
		case errors.Is(err, errAbsent) && p.name != varve:
			r.report.note(p.name, err)
		default:
			return fmt.Errorf("%s: %s: %w", memoryGroup, p.name, err)
		}
	}
	return nil
}

func walkedBy(p peer, s *stack) (m Memory, err error) {
	v, err := p.mount(s)
	if err != nil {
		return m, fmt.Errorf("%w: %w", errAbsent, err)
	}
	defer func() { err = errors.Join(err, v.stop()) }()
	walk := job{Root: v.root, Items: s.items, Rows: []string{groups()[0].rows[0].Name}}
	if _, err := walk.visit(); err != nil {
		return m, err
	}
	return memoryOf(p.name, v.pid)
}

// memoryOf reads smaps_rollup of proc(5).
func memoryOf(name string, pid int) (Memory, error) {
	m := Memory{Peer: name}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(data)) {
		field := strings.Fields(line)
		if len(field) < 2 {
			continue
		}
		kib, _ := strconv.ParseInt(field[1], 10, 64) // the first line is no number, and not asked for
		switch field[0] {
		case "Rss:":
			m.RSS = kib << 10
		case "Pss:":
			m.PSS = kib << 10
		}
	}
	return m, nil
}
