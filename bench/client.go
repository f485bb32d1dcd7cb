package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// clientEnv says that a process is a client.
const clientEnv = "_VARVE_BENCH_CLIENT"

// Main is the beginning of every program that calls [Compare]: it returns at once,
// unless the process is a client that a comparison started, which does its work and
// ends here.
func Main() {
	if os.Getenv(clientEnv) == "" {
		return
	}
	if err := runClient(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// command is this same program as a client, not yet started.
func (j job) command() (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	// Without the runtime's own signals, which would interrupt a waiting call.
	cmd.Env = append(os.Environ(), clientEnv+"=1", "GODEBUG=asyncpreemptoff=1")
	cmd.Stdin = bytes.NewReader(data)
	return cmd, nil
}

// job is what a client does in one visit: the rows, in their order, in the
// directory Root, whose content is Items.
type job struct {
	Root  string
	Items string   // a file with the items as JSON
	Rows  []string // names of rows
	Small bool     // few operations: to see that it works
}

// result is what one row took.
type result struct {
	Ops  int
	Took time.Duration
}

// item is one file of the tree, as it was before anything was changed.
type item struct {
	Path string // below the root
	Size int64
	Kind string // "f", "d" or "o" for all other
	One  bool   // it has one name
}

// client is the process that works in a view.
type client struct {
	items []item
	small bool
	buf   []byte
	seed  *rand.Rand // the same numbers for every peer, anew for each row
}

// visit runs a client and returns what each row took.
func (j job) visit() (map[string]result, error) {
	cmd, err := j.command()
	if err != nil {
		return nil, err
	}
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("client: %w: %s", err, strings.TrimSpace(errs.String()))
	}
	results := map[string]result{}
	return results, json.Unmarshal(out, &results)
}

// runClient reads a job and writes its results. Relative paths keep the way to the
// mount point out of the figures.
func runClient(in io.Reader, out io.Writer) error {
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	unix.Umask(0o022)
	var j job
	if err := json.NewDecoder(in).Decode(&j); err != nil {
		return err
	}
	c := &client{small: j.Small, buf: make([]byte, 1<<20)}
	if err := errors.Join(c.readItems(j.Items), os.Chdir(j.Root)); err != nil {
		return err
	}
	results := map[string]result{}
	for i, row := range rowsNamed(j.Rows) {
		if i == 0 && !row.cold {
			if _, _, err := c.walk(); err != nil {
				return err
			}
		}
		c.seed = rand.New(rand.NewPCG(1, 2))
		ops, took, err := row.run(c)
		if err != nil {
			return fmt.Errorf("%s: %w", row.Name, err)
		}
		results[row.Name] = result{ops, took}
	}
	return json.NewEncoder(out).Encode(results)
}

func (c *client) readItems(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, &c.items)
}

// some is n, or few of it where it is enough to see that it works.
func (c *client) some(n int) int {
	if c.small {
		return min(n, 20)
	}
	return n
}

// timed calls op n times and tells how long that took.
func timed(n int, op func(i int) error) (int, time.Duration, error) {
	start := time.Now()
	for i := range n {
		if err := op(i); err != nil {
			return 0, 0, err
		}
	}
	return n, time.Since(start), nil
}

// again does one round that is not timed before it.
func again(n int, op func(i int) error) (int, time.Duration, error) {
	if _, _, err := timed(n, op); err != nil {
		return 0, 0, err
	}
	return timed(n, op)
}
