package bench

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// RunOptions says what [CompareRuns] compares. Rounds may be 0: that is one round. Each is
// how often what takes milliseconds is done a round; 0 is ten times.
type RunOptions struct {
	Base   string // an empty directory, where the stores are, ours and podman's
	Varve  string // this project's binary
	Tar    string // a root file system with true and sleep
	Python bool   // which has python3, too
	Many   int    // how many containers are started at once
	Rounds int
	Each   int
	Log    io.Writer // says what goes on, if not nil

	// User is a command as who runs rootless; nil if nobody does. UserDir is an empty directory
	// of his, for stores, and UserVarve a copy of Varve that he may execute.
	User               func(name string, args ...string) *exec.Cmd
	UserDir, UserVarve string

	// Empty is a Go program that does nothing, to see how quick this machine is; "" is none.
	Empty string
}

// RunReport is what a comparison of containers found.
type RunReport struct {
	Rounds int
	Each   int
	Lines  []RunLine
	Paces  []RunPace
	Notes  []string // what was left out
}

// RunPace is what a program took here, and where the bars were set: how quick a machine is
// at processes differs fourfold even between machines of one kind, so a bar in milliseconds
// says little without.
type RunPace struct {
	Program     string
	Here, There float64 // ms, medians
}

// RunLine is one job: Value is ours, the median of all rounds, Bar the most that it may
// be, in the same unit.
type RunLine struct {
	Job    string
	Unit   string // ms or MiB
	Value  float64
	Least  float64 // of all rounds
	Peer   string  // "" if there is none, or it is not here
	Theirs float64 // the peer's median; 0 without one
	Bar    float64 // 0: the peer would say, and is not here
}

// runComparison is one.
type runComparison struct {
	imageRun // for its stores and its podman

	opt    RunOptions
	report *RunReport
	tree   string // the root file system, unpacked, for bubblewrap; "" without
}

// The figures of a container's life.
const (
	mostRun      = 35  // ms
	mostExec     = 15  // ms
	mostOfPodman = 0.3 // starting many
	mostHello    = 1.3 // times bubblewrap, and
	plusHello    = 30  // ms
	mostIdle     = 30  // MiB
)

// What others took where these were set, in ms.
const (
	podmanThere     = 137
	rootlessThere   = 175
	bubblewrapThere = 4
	emptyThere      = 1
)

// CompareRuns measures what containers cost: to run one, to execute in one, until a
// Python program speaks, many at once, and the memory of one that does nothing.
func CompareRuns(o RunOptions) (_ *RunReport, err error) {
	r := &runComparison{opt: o, report: &RunReport{Rounds: max(1, o.Rounds), Each: cmp.Or(o.Each, 10)}}
	r.imageRun = imageRun{
		ImageOptions: ImageOptions{Base: o.Base, Varve: o.Varve, Tar: o.Tar, Log: o.Log},
		paths:        map[string]string{}, report: &ImageReport{},
	}
	r.findPodman()
	defer func() { err = errors.Join(err, r.clean()) }()
	if err := r.prepareRuns(); err != nil {
		return nil, err
	}
	for _, job := range []func() error{r.runTrue, r.runRootless, r.paces, r.execTrue, r.hello, r.many, r.idle} {
		if err := job(); err != nil {
			return nil, err
		}
	}
	r.report.Notes = append(r.report.Notes, r.imageRun.report.Notes...)
	return r.report, nil
}

func (r *runComparison) prepareRuns() error {
	lines := [][]string{r.varve("import", r.Tar, "base"), r.varve("run", "--rm", "base", "true")}
	if r.podman {
		lines = append(lines, r.podmanLine("import", r.Tar, "base"), r.podmanRun("--rm", "base", "true"))
	}
	if _, err := exec.LookPath("bwrap"); err == nil && r.opt.Python {
		r.tree = r.path("tree")
		lines = append(lines, []string{"sh", "-c", `mkdir "$2" && tar -xf "$1" -C "$2"`, "sh", r.Tar, r.tree})
	}
	return r.all(lines...)
}

// runArgs leave out the network, which we do not make either.
func runArgs(args ...string) []string {
	return append([]string{"run", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"}, args...)
}

func (r *runComparison) podmanRun(args ...string) []string { return r.podmanLine(runArgs(args...)...) }

// measure has ours and the peer's turn by turn, each so many times: after another program a
// first run is slower, and the figures are of those that are warm. It adds the line. A nil peer is
// not here; bar is of the peer's median, 0 without one.
func (r *runComparison) measure(job, peer string, each int, ours, theirs func() (time.Duration, error), bar func(peer float64) float64) error {
	var a, b []float64
	for round := range r.report.Rounds {
		r.say("%s: round %d of %d", job, round+1, r.report.Rounds)
		turn := []func() error{func() error { return appendTimes(&a, each, ours) }}
		if theirs != nil {
			turn = append(turn, func() error { return appendTimes(&b, each, theirs) })
		}
		if round%2 == 1 {
			slices.Reverse(turn)
		}
		for _, one := range turn {
			if err := one(); err != nil {
				return fmt.Errorf("%s: %w", job, err)
			}
		}
	}
	line := RunLine{Job: job, Unit: "ms", Least: slices.Min(a)}
	_, line.Value, _ = quartiles(a)
	if theirs != nil {
		line.Peer = peer
		_, line.Theirs, _ = quartiles(b)
	}
	line.Bar = bar(line.Theirs)
	r.add(line)
	return nil
}

// add adds a line to the report.
func (r *runComparison) add(l RunLine) { r.report.Lines = append(r.report.Lines, l) }

func appendTimes(list *[]float64, times int, fn func() (time.Duration, error)) error {
	for range times {
		d, err := fn()
		if err != nil {
			return err
		}
		*list = append(*list, millis(d))
	}
	return nil
}

// whole is how long a process takes.
func (r *runComparison) whole(line []string) func() (time.Duration, error) {
	return func() (time.Duration, error) {
		s, err := r.do(line)
		return s.wall, err
	}
}

func fixed(most float64) func(float64) float64 { return func(float64) float64 { return most } }

func (r *runComparison) runTrue() error {
	var theirs func() (time.Duration, error)
	if r.podman {
		theirs = r.whole(r.podmanRun("--rm", "base", "true"))
	}
	return r.measure("run --rm IMAGE true, as root", podman, r.report.Each, r.whole(r.varve("run", "--rm", "base", "true")), theirs, fixed(mostRun))
}

// paces are what podman took for the jobs before, and what the least takes that bubblewrap and
// an empty program of Go can do.
func (r *runComparison) paces() error {
	for i, there := range []float64{podmanThere, rootlessThere} {
		if i < len(r.report.Lines) && r.report.Lines[i].Peer != "" {
			l := r.report.Lines[i]
			r.report.Paces = append(r.report.Paces, RunPace{"podman " + l.Job, l.Theirs, there})
		}
	}
	if _, err := exec.LookPath("bwrap"); err == nil {
		if err := r.pace("bubblewrap true", bubblewrapThere, "bwrap", "--bind", "/", "/", "true"); err != nil {
			return err
		}
	}
	if r.opt.Empty == "" {
		return nil
	}
	return r.pace("an empty program of Go", emptyThere, r.opt.Empty)
}

func (r *runComparison) pace(program string, there float64, line ...string) error {
	var took []float64
	if err := appendTimes(&took, r.report.Rounds*r.report.Each, r.whole(line)); err != nil {
		return err
	}
	_, median, _ := quartiles(took)
	r.report.Paces = append(r.report.Paces, RunPace{program, median, there})
	return nil
}

func (r *runComparison) runRootless() error {
	if r.opt.User == nil {
		r.report.Notes = append(r.report.Notes, "rootless is left out: there is no user for it")
		return nil
	}
	ours := func(args ...string) []string {
		return append([]string{r.opt.UserVarve, "--root", filepath.Join(r.opt.UserDir, "varve")}, args...)
	}
	for _, line := range [][]string{ours("import", "-", "base"), ours("run", "--rm", "base", "true")} {
		if err := r.asUser(line); err != nil {
			return err
		}
	}
	theirs, err := r.rootlessPodman()
	if err == nil {
		err = r.measure("run --rm IMAGE true, rootless", podman, r.report.Each, r.wholeAsUser(ours("run", "--rm", "base", "true")), theirs, fixed(mostRun))
	}
	err = errors.Join(err, r.asUser(ours("rmi", "-f", "base")))
	if theirs != nil { // its process that keeps the user namespace goes
		err = errors.Join(err, r.asUser(r.podmanOfUser("system", "migrate")))
	}
	return err
}

// rootlessPodman prepares podman for the user; nil if it is not here.
func (r *runComparison) rootlessPodman() (func() (time.Duration, error), error) {
	if !r.podman {
		return nil, nil
	}
	run := r.podmanOfUser(runArgs("--rm", "base", "true")...)
	for _, line := range [][]string{r.podmanOfUser("import", "-", "base"), run} {
		if err := r.asUser(line); err != nil {
			return nil, err
		}
	}
	return r.wholeAsUser(run), nil
}

func (r *runComparison) podmanOfUser(args ...string) []string {
	dir := r.opt.UserDir
	return append([]string{"env", "XDG_RUNTIME_DIR=" + filepath.Join(dir, "r")}, r.podmanIn(filepath.Join(dir, "podman"), filepath.Join(dir, "p"), args...)...)
}

// asUser runs a command with the archive of the root as its stdin, which the user may not be able to open.
func (r *runComparison) asUser(line []string) error {
	tar, err := os.Open(r.Tar)
	if err != nil {
		return err
	}
	defer func() { _ = tar.Close() }() // only read
	cmd := r.opt.User(line[0], line[1:]...)
	cmd.Stdin = tar
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w: %s", line, err, out)
	}
	return nil
}

func (r *runComparison) wholeAsUser(line []string) func() (time.Duration, error) {
	return func() (time.Duration, error) {
		cmd := r.opt.User(line[0], line[1:]...)
		began := time.Now()
		out, err := cmd.CombinedOutput()
		if took := time.Since(began); err == nil {
			return took, nil
		}
		return 0, fmt.Errorf("%v: %w: %s", line, err, out)
	}
}

func (r *runComparison) execTrue() error {
	begin := [][]string{r.varve("run", "-d", "--name", "up", "base", "sleep", "100000")}
	end := [][]string{r.varve("rm", "-f", "up")}
	var theirs func() (time.Duration, error)
	if r.podman {
		begin = append(begin, r.podmanRun("-d", "--name", "up", "base", "sleep", "100000"))
		end = append(end, r.podmanLine("rm", "-f", "-t", "0", "up"))
		theirs = r.whole(r.podmanLine("exec", "up", "true"))
	}
	if err := r.all(begin...); err != nil {
		return err
	}
	err := r.measure("exec CONTAINER true", podman, r.report.Each, r.whole(r.varve("exec", "up", "true")), theirs, fixed(mostExec))
	return errors.Join(err, r.all(end...))
}

// hello is how long it takes until a Python program says something.
func (r *runComparison) hello() error {
	if r.tree == "" {
		r.report.Notes = append(r.report.Notes, "Python is left out: it, or bubblewrap, is not here")
		return nil
	}
	program := []string{"python3", "-c", `print("hello")`}
	ours := append(r.varve("run", "--rm", "base"), program...)
	theirs := append([]string{"bwrap", "--bind", r.tree, "/", "--dev", "/dev", "--proc", "/proc", "--unshare-pid"}, program...)
	return r.measure("until Python says hello", "bubblewrap", r.report.Each, firstByte(ours), firstByte(theirs), func(theirs float64) float64 {
		return mostHello*theirs + plusHello
	})
}

func firstByte(line []string) func() (time.Duration, error) {
	return func() (time.Duration, error) {
		cmd := exec.Command(line[0], line[1:]...)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			return 0, err
		}
		began := time.Now()
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		_, err = io.ReadFull(out, make([]byte, 1))
		took := time.Since(began)
		_, restErr := io.Copy(io.Discard, out)
		return took, errors.Join(err, restErr, cmd.Wait())
	}
}

// many starts containers at once, all of which have to run at the end.
func (r *runComparison) many() error {
	atOnce := func(line, ps, rm []string) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			began := time.Now()
			errs := make(chan error)
			for range r.opt.Many {
				go func() { _, err := r.do(line); errs <- err }()
			}
			var err error
			for range r.opt.Many {
				err = errors.Join(err, <-errs)
			}
			took := time.Since(began)
			out, psErr := exec.Command(ps[0], ps[1:]...).Output()
			ids := strings.Fields(string(out))
			if err = errors.Join(err, psErr); err == nil && len(ids) != r.opt.Many {
				err = fmt.Errorf("%d of %d run", len(ids), r.opt.Many)
			}
			if len(ids) > 0 {
				_, rmErr := r.do(append(rm, ids...))
				err = errors.Join(err, rmErr)
			}
			return took, err
		}
	}
	var theirs func() (time.Duration, error)
	if r.podman {
		theirs = atOnce(r.podmanRun("-d", "base", "sleep", "100000"), r.podmanLine("ps", "-q"), r.podmanLine("rm", "-f", "-t", "0"))
	}
	ours := atOnce(r.varve("run", "-d", "base", "sleep", "100000"), r.varve("ps", "-q"), r.varve("rm", "-f"))
	return r.measure(fmt.Sprintf("%d containers started at once", r.opt.Many), podman, 1, ours, theirs, func(theirs float64) float64 {
		return mostOfPodman * theirs
	})
}

// idle is the memory of all processes of a container that sleeps, but for its own.
func (r *runComparison) idle() error {
	if err := r.all(r.varve("run", "-d", "--name", "idle", "base", "sleep", "100000")); err != nil {
		return err
	}
	time.Sleep(time.Duration(min(r.report.Each, 10)) * time.Second) // for the watch, and a collection of garbage
	out, err := exec.Command(r.Varve, r.varve("inspect", "--format", "{{.ID}}", "idle")[1:]...).Output()
	if err != nil {
		return err
	}
	total, err := residentOf("supervise\x00" + strings.TrimSpace(string(out)))
	if err == nil && total == 0 {
		err = errors.New("there is no supervisor")
	}
	r.add(RunLine{Job: "memory of an idle container", Unit: "MiB", Value: mib(total), Least: mib(total), Bar: mostIdle})
	return errors.Join(err, r.all(r.varve("rm", "-f", "idle")))
}

// residentOf is the resident memory, in bytes, of the processes whose command line has
// this text, and of their children but the program itself.
func residentOf(text string) (int64, error) {
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	var total int64
	for _, name := range names {
		line, err := os.ReadFile(name)
		if err != nil || !strings.Contains(string(line), text) {
			continue // it has ended, or is another's
		}
		dir := filepath.Dir(name)
		total += resident(dir)
		lists, err := filepath.Glob(filepath.Join(dir, "task/*/children"))
		if err != nil {
			return 0, err
		}
		for _, list := range lists {
			children, _ := os.ReadFile(list) // the thread may have ended
			for _, child := range strings.Fields(string(children)) {
				if line, err := os.ReadFile("/proc/" + child + "/cmdline"); err == nil && !strings.HasPrefix(string(line), "sleep") {
					total += resident("/proc/" + child)
				}
			}
		}
	}
	return total, nil
}

// resident is VmRSS of proc_pid_status(5), 0 of a process that has ended.
func resident(dir string) int64 {
	f, err := os.Open(filepath.Join(dir, "status"))
	if err != nil {
		return 0
	}
	defer func() { _ = f.Close() }() // only read
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if text, found := strings.CutPrefix(lines.Text(), "VmRSS:"); found {
			kib, err := strconv.ParseInt(strings.Fields(text)[0], 10, 64)
			if err == nil {
				return kib << 10
			}
		}
	}
	return 0
}

// Write prints the report as a table.
func (r *RunReport) Write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "medians, whole processes, %d rounds of %d\n", r.Rounds, r.Each)
	fmt.Fprintln(t, "job\t\tleast\tpeer\t\tat most\tmet")
	for _, l := range r.Lines {
		fmt.Fprintf(t, "%s\t%.1f %s\t%.1f\t%s\t%.1f\t%.1f\t%s\n", l.Job, l.Value, l.Unit, l.Least, l.Peer, l.Theirs, l.Bar, verdict(l.Bar > 0, l.Value <= l.Bar))
	}
	for _, p := range r.Paces {
		fmt.Fprintf(t, "pace: %s took %.1f ms here and %.0f where the bars were set: %.1f\n", p.Program, p.Here, p.There, p.Here/p.There)
	}
	for _, note := range r.Notes {
		fmt.Fprintf(t, "note: %s\n", note)
	}
	return t.Flush() // tells the first error of all of the above
}

// Ledger returns the report as a row of docs/performance.md, of that day and commit.
func (r *RunReport) Ledger(day time.Time, commit string) string {
	var list []string
	for _, l := range r.Lines {
		text := fmt.Sprintf("%s: %.0f %s (least %.0f)", l.Job, l.Value, l.Unit, l.Least)
		if l.Peer != "" {
			text += fmt.Sprintf(", %s %.0f", l.Peer, l.Theirs)
		}
		list = append(list, text)
	}
	for _, p := range r.Paces {
		list = append(list, fmt.Sprintf("pace: %s %.1f ms, %.1f times what it took where the bars were set", p.Program, p.Here, p.Here/p.There))
	}
	return fmt.Sprintf("| %s | %s | containers, whole processes, %d rounds | podman on fuse-overlayfs; bubblewrap | – | %s |\n",
		day.Format(time.DateOnly), commit, r.Rounds, strings.Join(list, "; "))
}
