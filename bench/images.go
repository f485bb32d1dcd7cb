package bench

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// ImageOptions says what [CompareImages] compares. Rounds may be 0: that is one round.
type ImageOptions struct {
	Base   string    // an empty directory, where the stores are, ours and podman's
	Varve  string    // this project's binary
	Tar    string    // a root file system
	Many   string    // an archive of images, for the verbs that list
	Rounds int       // that count
	Small  bool      // little data: to see that it works
	Log    io.Writer // says what goes on, if not nil
}

// imagePeak is the most memory that any of our processes may take.
const imagePeak = 120 << 20

// The peers of images.
const (
	podman   = "podman"
	untarred = "tar + sha256sum"
)

// imageBar is the most that a job may take: Most times what Peer takes, or, where
// that is "", Most milliseconds.
type imageBar struct {
	Peer string
	Most float64
}

// imageJob is one line of the table: the same work, done by ours and by peers. Each
// command is a whole process, or a shell's line of them; undo, which is not measured,
// follows each of ours and of podman's.
type imageJob struct {
	name  string
	bars  []imageBar
	ours  []string
	undo  []string
	peers map[string][]string
	after map[string][]string // undo of the peers
	// pause: what counts is how long the container "live" stood still meanwhile.
	pause bool
}

// ImageReport is what a comparison of images found.
type ImageReport struct {
	Rounds int
	Lines  []ImageLine
	Notes  []string // what was left out
}

// ImageLine is one job.
type ImageLine struct {
	Job    string
	Millis float64            // the median of the whole process
	CPU    float64            // of user and system time, in milliseconds
	Peak   int64              // bytes: the largest resident set of any process of it
	Ratios map[string]float64 // by peer: the median of the ratios of each round
	bars   []imageBar
}

// imageRun is one comparison of images.
type imageRun struct {
	ImageOptions
	podman bool              // it is here
	paths  map[string]string // of the programs that podman needs
	live   *exec.Cmd         // the foreground of a container that runs all the time
	group  string            // its control group; "" where it has none
	report *ImageReport
}

// CompareImages does the work of images with this binary and with podman on
// fuse-overlayfs, turn by turn. What is missing is left out, with a note.
func CompareImages(o ImageOptions) (_ *ImageReport, err error) {
	r := &imageRun{ImageOptions: o, paths: map[string]string{}, report: &ImageReport{Rounds: max(1, o.Rounds)}}
	if err := os.MkdirAll(r.path("x"), 0o755); err != nil {
		return nil, err
	}
	r.findPodman()
	defer func() { err = errors.Join(err, r.clean()) }()
	if err := r.prepare(); err != nil {
		return nil, err
	}
	for _, j := range r.jobs() {
		line, err := r.job(j)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", j.name, err)
		}
		r.report.Lines = append(r.report.Lines, line)
	}
	return r.report, nil
}

func (r *imageRun) path(name string) string { return filepath.Join(r.Base, name) }

// findPodman tells whether the peer is here.
func (r *imageRun) findPodman() {
	for _, program := range []string{"podman", "fuse-overlayfs", "runc"} {
		path, err := exec.LookPath(program)
		if err != nil {
			r.report.Notes = append(r.report.Notes, fmt.Sprintf("podman is left out: %v", err))
			return
		}
		r.paths[program] = path
	}
	if r.podman = os.Geteuid() == 0; !r.podman {
		r.report.Notes = append(r.report.Notes, "podman is left out: it is compared as root only")
	}
}

// varve and podmanLine are command lines on the stores of this comparison.
func (r *imageRun) varve(args ...string) []string {
	return append([]string{r.Varve, "--root", r.path("varve")}, args...)
}

func (r *imageRun) podmanLine(args ...string) []string { return r.podmanAt("podman", args...) }

func (r *imageRun) podmanAt(store string, args ...string) []string {
	return r.podmanIn(r.path(store), r.path(store[:1]+"-run"), args...)
}

// podmanIn is a command line on a store in root; of runroot 50 characters are the most.
func (r *imageRun) podmanIn(root, runroot string, args ...string) []string {
	return append([]string{"podman", "--root", root, "--runroot", runroot, "--cgroup-manager", "cgroupfs", "--runtime", r.paths["runc"],
		"--storage-driver", "overlay", "--storage-opt", "overlay.mount_program=" + r.paths["fuse-overlayfs"]}, args...)
}

func (r *imageRun) say(format string, args ...any) {
	if r.Log != nil {
		fmt.Fprintf(r.Log, format+"\n", args...)
	}
}

// spent is what one command took.
type spent struct {
	wall, cpu time.Duration
	peak      int64
}

// do runs a command and tells what it took, children that it waited for included. The
// kernel counts the memory of whoever started a process into its peak, so this one
// has to be small.
func (r *imageRun) do(line []string) (spent, error) {
	cmd := exec.Command(line[0], line[1:]...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)
	if err != nil {
		return spent{}, fmt.Errorf("%s: %w: %s", strings.Join(line, " "), err, strings.TrimSpace(stderr.String()))
	}
	s := spent{wall: took, cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		s.peak = int64(usage.Maxrss) << 10
	}
	return s, nil
}

// all runs commands that are not measured.
func (r *imageRun) all(lines ...[]string) error {
	for _, line := range lines {
		r.say("preparing: %s", strings.Join(line[max(0, len(line)-3):], " "))
		if _, err := r.do(line); err != nil {
			return err
		}
	}
	return nil
}

// The changes that are committed: one file, and one large with a thousand small ones.
const (
	changeOne  = "echo one more >> /etc/passwd"
	changeMany = "head -c %d /dev/urandom > /big; mkdir /many; i=0; while [ $i -lt 1000 ]; do echo $i > /many/$i; i=$((i+1)); done"
)

// prepare makes images, containers and the archive that is loaded.
func (r *imageRun) prepare() error {
	big := fmt.Sprintf(changeMany, 300<<20)
	if r.Small {
		big = fmt.Sprintf(changeMany, 1<<20)
	}
	sh := func(name, image, change string) []string {
		return r.varve("run", "--name", name, image, "sh", "-c", change)
	}
	err := r.all(r.varve("import", r.Tar, "base"))
	if err == nil {
		err = r.startLive(big)
	}
	if err != nil {
		return err
	}
	err = r.all(sh("one", "base", changeOne), r.varve("commit", "one", "two"),
		sh("next", "two", "echo three > /three"), r.varve("commit", "next", "three"), r.varve("save", "-o", r.path("three.tar"), "three"),
		sh("big", "base", big), r.varve("load", "-i", r.Many))
	if err != nil || !r.podman {
		return err
	}
	return r.all(r.podmanLine("import", r.Tar, "base"),
		r.podmanLine(runArgs("--name", "big", "base", "sh", "-c", big)...))
}

// startLive starts a container that makes a change and runs on.
func (r *imageRun) startLive(change string) error {
	line := r.varve("run", "--name", "live", "base", "sh", "-c", change+"; echo ready; sleep 100000")
	r.live = exec.Command(line[0], line[1:]...)
	r.live.Stderr = os.Stderr
	out, err := r.live.StdoutPipe()
	if err == nil {
		err = r.live.Start()
	}
	if err == nil {
		_, err = io.ReadFull(out, make([]byte, len("ready\n")))
	}
	if err != nil {
		return fmt.Errorf("start a container: %w", err)
	}
	states, err := filepath.Glob(r.path("varve/containers/*/state.json"))
	if err != nil || len(states) != 1 {
		return fmt.Errorf("start a container: %d have a state: %w", len(states), err)
	}
	raw, err := os.ReadFile(states[0])
	var state struct{ Group struct{ Unified string } }
	if err == nil {
		err = json.Unmarshal(raw, &state)
	}
	if r.group = state.Group.Unified; r.group == "" && err == nil {
		r.report.Notes = append(r.report.Notes, "the pause of a commit is left out: containers have no control group of version 2 here")
	}
	return err
}

// endLive ends it.
func (r *imageRun) endLive() error {
	if r.live == nil || r.live.Process == nil {
		return nil
	}
	_, err := r.do(r.varve("rm", "-f", "live"))
	_ = r.live.Wait() // it was killed
	return err
}

// paused runs a command, and tells as its time how long the container stood still.
func (r *imageRun) paused(line []string) (spent, error) {
	done, total := make(chan struct{}), make(chan time.Duration)
	go func() {
		var sum time.Duration
		began := time.Time{}
		for ended := false; !ended; time.Sleep(100 * time.Microsecond) {
			select {
			case <-done:
				ended = true
			default:
			}
			word, _ := os.ReadFile(filepath.Join(r.group, "cgroup.freeze"))
			switch frozen := strings.HasPrefix(string(word), "1"); {
			case frozen && began.IsZero():
				began = time.Now()
			case !frozen && !began.IsZero():
				sum, began = sum+time.Since(began), time.Time{}
			}
		}
		total <- sum
	}()
	s, err := r.do(line)
	close(done)
	s.wall = <-total
	return s, err
}

// jobs is the table of issue figures. What is taken in goes to an empty store, so that
// its layers are not there yet.
func (r *imageRun) jobs() []imageJob {
	fresh := func(args ...string) []string {
		return append([]string{r.Varve, "--root", r.path("fresh")}, args...)
	}
	drop := []string{"rm", "-rf", r.path("fresh")}
	list := []imageJob{
		{name: "import", bars: []imageBar{{podman, 0.35}, {untarred, 1.6}}, ours: fresh("import", r.Tar, "taken"), undo: drop,
			peers: map[string][]string{
				podman:   r.podmanAt("fresh-podman", "import", r.Tar, "taken"),
				untarred: {"sh", "-c", `mkdir "$2" && tar -xf "$1" -C "$2" && sha256sum "$1" > "$2/sum"`, "sh", r.Tar, r.path("x/tree")},
			},
			after: map[string][]string{podman: r.podmanAt("fresh-podman", "rmi", "taken"), untarred: {"rm", "-rf", r.path("x/tree")}}},
		{name: "load of 3 layers", bars: []imageBar{{podman, 0.5}}, ours: fresh("load", "-i", r.path("three.tar")), undo: drop,
			peers: map[string][]string{podman: r.podmanAt("fresh-podman", "load", "-i", r.path("three.tar"))},
			after: map[string][]string{podman: r.podmanAt("fresh-podman", "rmi", "docker.io/library/three")}},
		{name: "commit of a large and 1,000 small files", bars: []imageBar{{podman, 0.15}}, ours: r.varve("commit", "big", "taken"), undo: r.varve("rmi", "taken"),
			peers: map[string][]string{podman: r.podmanLine("commit", "big", "taken")},
			after: map[string][]string{podman: r.podmanLine("rmi", "taken")}},
		{name: "commit of one file", bars: []imageBar{{"", 40}}, ours: r.varve("commit", "one", "taken"), undo: r.varve("rmi", "taken")},
	}
	if r.group != "" {
		list = append(list, imageJob{name: "pause of a container with the former changes", bars: []imageBar{{"", 100}}, pause: true,
			ours: r.varve("commit", "live", "taken"), undo: r.varve("rmi", "taken")})
	}
	for _, verb := range [][]string{{"images"}, {"ps", "-a"}, {"history", "many:1"}, {"inspect", "many:1"}} {
		list = append(list, imageJob{name: verb[0], bars: []imageBar{{"", 25}}, ours: r.varve(verb...)})
	}
	return list
}

// job does one job in all rounds. The order turns around with each.
func (r *imageRun) job(j imageJob) (ImageLine, error) {
	line := ImageLine{Job: j.name, bars: j.bars, Ratios: map[string]float64{}}
	var wall, cpu []float64
	ratios := map[string][]float64{}
	for round := range r.report.Rounds {
		r.say("%s: round %d of %d", j.name, round+1, r.report.Rounds)
		took, err := r.turn(j, round)
		if err != nil {
			return line, err
		}
		ours := took[varve]
		wall, cpu = append(wall, millis(ours.wall)), append(cpu, millis(ours.cpu))
		line.Peak = max(line.Peak, ours.peak)
		for peer := range j.peers {
			if theirs, ok := took[peer]; ok {
				ratios[peer] = append(ratios[peer], millis(ours.wall)/max(1, millis(theirs.wall)))
			}
		}
	}
	_, line.Millis, _ = quartiles(wall)
	_, line.CPU, _ = quartiles(cpu)
	for peer, list := range ratios {
		_, line.Ratios[peer], _ = quartiles(list)
	}
	return line, nil
}

// turn has everybody do the job once. What was written before is on the disk first,
// so that nobody waits for somebody else's bytes.
func (r *imageRun) turn(j imageJob, round int) (map[string]spent, error) {
	type who struct {
		name       string
		line, undo []string
	}
	list := []who{{varve, j.ours, j.undo}}
	for _, peer := range []string{podman, untarred} {
		if line := j.peers[peer]; line != nil && (peer != podman || r.podman) {
			list = append(list, who{peer, line, j.after[peer]})
		}
	}
	if round%2 == 1 {
		slices.Reverse(list)
	}
	took := map[string]spent{}
	for _, w := range list {
		if j.undo != nil {
			syscall.Sync()
		}
		do := r.do
		if j.pause {
			do = r.paused
		}
		s, err := do(w.line)
		if err != nil {
			return nil, err
		}
		took[w.name] = s
		if w.undo == nil {
			continue
		}
		if _, err := r.do(w.undo); err != nil {
			return nil, err
		}
	}
	return took, nil
}

// clean removes podman's container and images, which it may have mounted.
func (r *imageRun) clean() error {
	liveErr := r.endLive()
	if !r.podman {
		return liveErr
	}
	_, err := r.do(r.podmanLine("rm", "--all", "--force"))
	_, rmiErr := r.do(r.podmanLine("rmi", "--all", "--force"))
	// podman binds its own storage to itself.
	for _, store := range []string{"podman/overlay", "fresh-podman/overlay"} {
		if err := syscall.Unmount(r.path(store), syscall.MNT_DETACH); err != nil && err != syscall.EINVAL && err != syscall.ENOENT {
			return fmt.Errorf("unmount podman's storage: %w", err)
		}
	}
	return errors.Join(liveErr, err, rmiErr)
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// asked says what the bars are and whether they are met.
func (l ImageLine) asked() string {
	var list []string
	for _, b := range l.bars {
		got, here, text := l.Millis, true, fmt.Sprintf("%.4g ms", b.Most)
		if b.Peer != "" {
			got, here = l.Ratios[b.Peer]
			text = fmt.Sprintf("%.4g of %s", b.Most, b.Peer)
		}
		list = append(list, text+verdict(here, got <= b.Most))
	}
	return strings.Join(append(list, "120 MiB"+verdict(true, l.Peak <= imagePeak)), ", ")
}

func verdict(here, met bool) string {
	switch {
	case !here:
		return " ?"
	case met:
		return " yes"
	}
	return " NO"
}

// ratios are those to all peers that were here, in words.
func (l ImageLine) ratios() string {
	var list []string
	for peer, ratio := range l.Ratios {
		list = append(list, fmt.Sprintf("%.2f of %s", ratio, peer))
	}
	slices.SortFunc(list, func(a, b string) int { return cmp.Compare(a[5:], b[5:]) })
	return strings.Join(list, ", ")
}

// Write prints the report as a table.
func (r *ImageReport) Write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "medians of %d rounds, whole processes\n", r.Rounds)
	fmt.Fprintln(t, "job\tms\tprocessor ms\tpeak MiB\tratio\tat most, met")
	for _, l := range r.Lines {
		fmt.Fprintf(t, "%s\t%.1f\t%.1f\t%.1f\t%s\t%s\n", l.Job, l.Millis, l.CPU, mib(l.Peak), l.ratios(), l.asked())
	}
	for _, note := range r.Notes {
		fmt.Fprintf(t, "note: %s\n", note)
	}
	return t.Flush() // tells the first error of all of the above
}

// Ledger returns the report as a row of docs/performance.md, of that day and commit.
func (r *ImageReport) Ledger(day time.Time, commit string) string {
	var list []string
	for _, l := range r.Lines {
		text := fmt.Sprintf("%s: %.0f ms, processor %.0f ms, %.0f MiB", l.Job, l.Millis, l.CPU, mib(l.Peak))
		if ratios := l.ratios(); ratios != "" {
			text += ", " + ratios
		}
		list = append(list, text)
	}
	return fmt.Sprintf("| %s | %s | images, whole processes, %d rounds | podman on fuse-overlayfs; tar -x and sha256sum | – | %s |\n",
		day.Format(time.DateOnly), commit, r.Rounds, strings.Join(list, "; "))
}
