package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/docker/go-units"

	"github.com/varvefs/varve/internal/engine"
)

// redrawn is how often the bars are drawn, at most.
const redrawn = 100 * time.Millisecond

// bars shows a line a layer on a terminal, and draws them again where they stand.
type bars struct {
	out   io.Writer
	width func() int

	mu    sync.Mutex
	steps []engine.Step // guarded by mu; in the order in which the layers came
	lines int           // guarded by mu; that were drawn
	drawn time.Time     // guarded by mu; when
}

// newBars shows nothing if quiet, or if out is no terminal.
func newBars(out *os.File, quiet bool) *bars {
	if quiet || !term.IsTerminal(int(out.Fd())) {
		return &bars{}
	}
	return &bars{out: out, width: func() int {
		width, _, err := term.GetSize(int(out.Fd()))
		if err != nil {
			return 80
		}
		return width
	}}
}

// step is an [engine.Progress].
func (b *bars) step(s engine.Step) {
	if b.out == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.setLocked(s)
	if time.Since(b.drawn) >= redrawn {
		b.drawLocked()
	}
}

func (b *bars) setLocked(s engine.Step) {
	for i := range b.steps {
		if b.steps[i].Layer == s.Layer {
			b.steps[i] = s
			return
		}
	}
	b.steps = append(b.steps, s)
}

// finish draws what came last.
func (b *bars) finish() {
	if b.out == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drawLocked()
}

// drawLocked goes up over the lines of the last time, and writes them again.
// Preconditions: mu is held.
func (b *bars) drawLocked() {
	var text strings.Builder
	if b.lines > 0 {
		fmt.Fprintf(&text, "\x1b[%dA", b.lines)
	}
	width := b.width()
	for _, s := range b.steps {
		fmt.Fprintf(&text, "\r%s\x1b[K\n", barLine(s, width))
	}
	b.lines, b.drawn = len(b.steps), time.Now()
	_, _ = io.WriteString(b.out, text.String()) // a terminal that has gone sees nothing
}

// barLine is one layer, in one line of a terminal that wide.
func barLine(s engine.Step, width int) string {
	line := s.Layer.Encoded()[:12] + ": " + s.What
	if s.Total > 0 {
		const cells = 30
		full := int(min(s.Done, s.Total) * cells / s.Total)
		line = fmt.Sprintf("%s %s%s %s/%s", line, strings.Repeat("█", full), strings.Repeat("░", cells-full),
			units.HumanSize(float64(s.Done)), units.HumanSize(float64(s.Total)))
	}
	if text := []rune(line); len(text) >= width && width > 0 {
		line = string(text[:width-1])
	}
	return line
}
