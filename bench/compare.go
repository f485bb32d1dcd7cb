package bench

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
)

// Options says what is compared. Zero values work but for Base, Varve and Fill.
type Options struct {
	Base   string                 // an empty directory, in memory if it can be, which is filled and emptied
	Varve  string                 // this project's binary
	Fill   func(dir string) error // makes the tree in an empty directory
	Rows   *regexp.Regexp         // only these operations
	Peers  *regexp.Regexp         // only these peers, and the plain directory
	Rounds int                    // that count; one more goes before them. 0 is one that counts alone
	Small  bool                   // few operations and files: to see that it works
	Log    io.Writer              // says what goes on, if not nil
}

// Compare runs every group of rows on each peer, and measures the memory of the
// servers. What is not here is left out, with a note in the report. A peer of ours
// that shows another tree at the end of a visit than a plain directory that was
// treated alike is an error; of another peer it is a note. So is a layer that
// changed an error.
func Compare(o Options) (_ *Report, err error) {
	if !o.Small { // which may run beside other tests
		restore, err := enableRing()
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, restore()) }()
	}
	r := &run{Options: o, report: &Report{Rounds: max(1, o.Rounds)}}
	for _, g := range groups() {
		if g.rows = slices.DeleteFunc(g.rows, func(w Row) bool { return !wanted(o.Rows, w.Name) }); len(g.rows) == 0 {
			continue
		}
		if err := r.group(g); err != nil {
			return nil, fmt.Errorf("%s: %w", g.name, err)
		}
	}
	if wanted(o.Rows, memoryGroup) {
		err = r.memory()
	}
	return r.report, errors.Join(err, r.dropStack())
}

func wanted(which *regexp.Regexp, name string) bool { return which == nil || which.MatchString(name) }

// run is one comparison.
type run struct {
	Options
	report *Report
	stack  *stack // the last one, kept for the next group of as many layers
}

func (r *run) say(format string, args ...any) {
	if r.Log != nil {
		fmt.Fprintf(r.Log, format+"\n", args...)
	}
}

// layered returns a stack of so many layers.
func (r *run) layered(layers int) (*stack, error) {
	if r.stack != nil && (r.Small || len(r.stack.lowers) == layers) {
		return r.stack, nil
	}
	if err := r.dropStack(); err != nil {
		return nil, err
	}
	r.say("making %d layers", layers)
	dir := filepath.Join(r.Base, fmt.Sprint(layers))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	size := int64(bigSize)
	if r.Small {
		layers, size = min(layers, 8), smallBig
	}
	s, err := newStack(dir, layers, size, r.Fill)
	r.stack = s
	return s, err
}

func (r *run) dropStack() error {
	if r.stack == nil {
		return nil
	}
	s := r.stack
	r.stack = nil
	return s.remove()
}

// group runs the rounds of one group, of which the first does not count. Each round
// begins with another peer.
func (r *run) group(g group) error {
	s, err := r.layered(g.layers)
	if err != nil {
		return err
	}
	list := slices.DeleteFunc(peers(r.Varve), func(p peer) bool {
		return !p.in(g.name) || p.name != plain && !wanted(r.Peers, p.name)
	})
	var lines samples
	for round := range r.Rounds + 1 {
		r.say("%s: round %d of %d, %d peers", g.name, round, r.Rounds, len(list))
		if round <= 1 { // the one before the first does not count
			lines = samples{}
		}
		list, err = r.round(s, g, rotated(list, round), lines)
		if err != nil {
			return err
		}
	}
	r.report.add(g, lines)
	return nil
}

// rotated keeps the plain directory first, since the others are compared with it.
func rotated(list []peer, by int) []peer {
	slices.SortStableFunc(list, func(a, b peer) int {
		switch {
		case a.name == plain:
			return -1
		case b.name == plain:
			return 1
		}
		return 0
	})
	rest := list[1:]
	by %= max(1, len(rest))
	return slices.Concat(list[:1], rest[by:], rest[:by])
}

// errAbsent is a peer that this machine can not show.
var errAbsent = errors.New("left out")

// round visits each peer once and returns those that are here.
func (r *run) round(s *stack, g group, list []peer, lines samples) (here []peer, err error) {
	var want snapshot
	for _, p := range list {
		results, tree, err := r.visit(s, g, p)
		if errors.Is(err, errAbsent) && p.name != varve {
			r.report.note(p.name, err)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		if p.name == plain {
			want = tree
		}
		if err := want.same(tree); err != nil && p.ours() {
			return nil, fmt.Errorf("%s shows another tree than a plain directory: %w", p.name, err)
		} else if err != nil {
			r.report.note(p.name+", after "+g.name+", shows another tree than a plain directory", err)
		}
		lines.add(p.name, results)
		here = append(here, p)
	}
	return here, s.check()
}

// visit mounts the stack, has a client do the rows, and looks at what is there
// then.
func (r *run) visit(s *stack, g group, p peer) (results map[string]result, tree snapshot, err error) {
	v, err := p.mount(s)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errAbsent, err)
	}
	defer func() { err = errors.Join(err, v.stop()) }()
	j := job{Root: v.root, Items: s.items, Small: r.Small}
	for _, w := range g.rows {
		j.Rows = append(j.Rows, w.Name)
	}
	results, err = j.visit()
	if err != nil {
		return nil, nil, err
	}
	tree, err = look(v.root, s.made)
	delete(tree, ".") // the root is that of the upper, which was made for this visit
	return results, tree, err
}
