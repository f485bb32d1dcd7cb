package main

import (
	"bytes"
	"fmt"
	"io"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/varvefs/varve/internal/engine"
)

// top is `varve top`.
func (c *cli) top() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "top CONTAINER [ps OPTIONS]",
		Short: "List the processes of a container that runs",
		Long: "List the processes of a container that runs, with their numbers and users on this machine.\n\n" +
			"Of the options of ps there are -ef, aux and -o COLUMN,… with the columns\n" + wrap(columnNames(), 88),
		Example: "  varve top web\n  varve top web aux\n  varve top web -o pid,etime,args",
		Args:    rangeArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			columns, err := psColumns(args[1:])
			if err != nil {
				return err
			}
			e, err := c.open()
			if err != nil {
				return err
			}
			list, err := e.Processes(args[0])
			if err != nil {
				return err
			}
			return printProcesses(cmd.OutOrStdout(), columns, list)
		},
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// A column is one of ps(1): its heading and what is in it.
type column struct {
	title string
	show  func(*psMachine, *engine.ContainerProcess) string
}

// psMachine is what ps knows of the machine.
type psMachine struct {
	now    time.Time
	memory uint64 // bytes
	users  map[uint32]string
}

// columns are those that -o can name.
func columns() map[string]column {
	type p = engine.ContainerProcess
	simple := func(title string, show func(*p) string) column {
		return column{title, func(_ *psMachine, x *p) string { return show(x) }}
	}
	number := func(title string, show func(*p) int) column {
		return simple(title, func(x *p) string { return strconv.Itoa(show(x)) })
	}
	list := map[string]column{
		"pid":    number("PID", func(x *p) int { return x.Pid }),
		"ppid":   number("PPID", func(x *p) int { return x.Parent }),
		"uid":    number("UID", func(x *p) int { return int(x.UID) }),
		"gid":    number("GID", func(x *p) int { return int(x.GID) }),
		"nlwp":   number("NLWP", func(x *p) int { return x.Threads }),
		"ni":     number("NI", func(x *p) int { return x.Nice }),
		"pri":    number("PRI", func(x *p) int { return 39 - x.Priority }), // as ps counts
		"vsz":    number("VSZ", func(x *p) int { return int(x.Virtual >> 10) }),
		"rss":    number("RSS", func(x *p) int { return int(x.Resident >> 10) }),
		"user":   {"USER", (*psMachine).user},
		"c":      {"C", func(m *psMachine, x *p) string { return strconv.Itoa(int(m.share(x) * 100)) }},
		"pcpu":   {"%CPU", func(m *psMachine, x *p) string { return fmt.Sprintf("%.1f", m.share(x)*100) }},
		"pmem":   {"%MEM", func(m *psMachine, x *p) string { return fmt.Sprintf("%.1f", percent(x.Resident, m.memory)) }},
		"tty":    simple("TT", func(x *p) string { return x.TTY }),
		"s":      simple("S", func(x *p) string { return string(x.State) }),
		"stat":   simple("STAT", stat),
		"time":   simple("TIME", func(x *p) string { return clock(x.CPU) }),
		"stime":  {"STIME", (*psMachine).since},
		"start":  {"START", (*psMachine).since},
		"lstart": simple("STARTED", func(x *p) string { return x.Started.Format("Mon Jan _2 15:04:05 2006") }),
		"etime":  {"ELAPSED", func(m *psMachine, x *p) string { return elapsed(m.now.Sub(x.Started)) }},
		"comm":   simple("COMMAND", func(x *p) string { return x.Name }),
		"args":   simple("COMMAND", commandLine),
		"cmd":    simple("CMD", commandLine),
	}
	for name, other := range map[string]string{"command": "args", "%cpu": "pcpu", "%mem": "pmem", "tt": "tty", "tname": "tty",
		"state": "s", "euser": "user", "euid": "uid", "egid": "gid", "rsz": "rss", "vsize": "vsz", "cputime": "time",
		"start_time": "stime", "nice": "ni", "thcount": "nlwp", "ucmd": "comm"} {
		list[name] = list[other]
	}
	return list
}

func columnNames() []string {
	var names []string
	for name := range columns() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// wrap writes words in lines of so many bytes.
func wrap(words []string, width int) string {
	var b strings.Builder
	line := 0
	for i, w := range words {
		if i < len(words)-1 {
			w += ", "
		}
		if line+len(w) > width {
			b.WriteByte('\n')
			line = 0
		}
		b.WriteString(w)
		line += len(w)
	}
	return b.String()
}

// psColumns reads options of ps, as far as they say something about columns.
func psColumns(args []string) ([]column, error) {
	full := namedColumns("user:UID", "pid", "ppid", "c", "stime", "tty:TTY", "time", "cmd")
	if len(args) == 0 {
		return full, nil
	}
	var names []string
	for i := 0; i < len(args); i++ {
		word := strings.TrimLeft(args[i], "-")
		switch flags, value, _ := strings.Cut(word, "o"); {
		case slices.Contains([]string{"ef", "f", "fe", "e", "A", "Af"}, word):
		case slices.Contains([]string{"aux", "auxw", "auxww", "u", "ux"}, word):
			full = namedColumns("user", "pid", "pcpu", "pmem", "vsz", "rss", "tty:TTY", "stat", "start", "time:TIME", "args")
		case strings.Contains(word, "o") && strings.Trim(flags, "eaxA") == "":
			if value == "" && i+1 < len(args) {
				i++
				value = args[i]
			}
			names = append(names, strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })...)
		default:
			return nil, fmt.Errorf("unknown option %q of ps: there are -ef, aux and -o COLUMN,…", args[i])
		}
	}
	if len(names) == 0 {
		return full, nil
	}
	var list []column
	for _, name := range names {
		name, title, has := strings.Cut(name, "=")
		col, known := columns()[name]
		if !known {
			return nil, fmt.Errorf("unknown column %q of ps: 'varve help top' lists them", name)
		}
		if has && title != "" {
			col.title = title
		}
		list = append(list, col)
	}
	return list, nil
}

// namedColumns are columns by NAME, or NAME:TITLE.
func namedColumns(names ...string) []column {
	all := columns()
	var list []column
	for _, name := range names {
		name, title, has := strings.Cut(name, ":")
		col := all[name]
		if has {
			col.title = title
		}
		list = append(list, col)
	}
	return list
}

func printProcesses(w io.Writer, columns []column, list []engine.ContainerProcess) error {
	m := &psMachine{now: time.Now(), memory: engine.MachineMemory(), users: map[uint32]string{}}
	table := tabwriter.NewWriter(w, 20, 1, 3, ' ', 0)
	titles := make([]string, len(columns))
	for i, col := range columns {
		titles[i] = col.title
	}
	fmt.Fprintln(table, strings.Join(titles, "\t"))
	for i := range list {
		var line bytes.Buffer
		for n, col := range columns {
			if n > 0 {
				line.WriteByte('\t')
			}
			line.WriteString(printable(col.show(m, &list[i])))
		}
		fmt.Fprintln(table, line.String())
	}
	return table.Flush()
}

// printable is text of a program without what could steer a terminal, or a table.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// user is the name of the process's user, or its number.
func (m *psMachine) user(p *engine.ContainerProcess) string {
	name, known := m.users[p.UID]
	if !known {
		name = strconv.FormatUint(uint64(p.UID), 10)
		if u, err := user.LookupId(name); err == nil {
			name = u.Username
		}
		m.users[p.UID] = name
	}
	return name
}

// share is what part of a processor the process has had since it began.
func (m *psMachine) share(p *engine.ContainerProcess) float64 {
	if age := m.now.Sub(p.Started); age > 0 {
		return float64(p.CPU) / float64(age)
	}
	return 0
}

// since is when the process began, shorter the longer that is ago.
func (m *psMachine) since(p *engine.ContainerProcess) string {
	now, began := m.now.Local(), p.Started.Local()
	switch {
	case now.Year() != began.Year():
		return began.Format("2006")
	case now.YearDay() != began.YearDay():
		return began.Format("Jan02")
	}
	return began.Format("15:04")
}

// stat is the state with the letters of ps.
func stat(p *engine.ContainerProcess) string {
	s := string(p.State)
	switch {
	case p.Nice < 0:
		s += "<"
	case p.Nice > 0:
		s += "N"
	}
	if p.Leader {
		s += "s"
	}
	if p.Threads > 1 {
		s += "l"
	}
	if p.Front {
		s += "+"
	}
	return s
}

func clock(d time.Duration) string {
	s := int(d / time.Second)
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}

// elapsed is [[DD-]HH:]MM:SS.
func elapsed(d time.Duration) string {
	s := max(int(d/time.Second), 0)
	switch {
	case s >= 24*3600:
		return fmt.Sprintf("%d-%s", s/(24*3600), clock(d%(24*time.Hour)))
	case s >= 3600:
		return clock(d)
	}
	return fmt.Sprintf("%02d:%02d", s/60, s%60)
}

func commandLine(p *engine.ContainerProcess) string {
	if len(p.Args) == 0 {
		name := "[" + p.Name + "]"
		if p.State == 'Z' {
			name += " <defunct>"
		}
		return name
	}
	return strings.Join(p.Args, " ")
}

func percent(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return 100 * float64(part) / float64(whole)
}
