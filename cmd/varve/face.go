package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/varvefs/varve/internal/engine"
)

// face is another name of this binary, under which it takes the command line of
// another program: who calls that one can call us. Faces know nothing of verbs,
// and are done with the command line before anything of varve's is built.
type face struct {
	name string // as it is called, for what it says
	kind string // behind "fuse." in the mount table
	// source is what the mount table shows where none is given; "" is varve.
	source string
	// helper is the command line of mount(8)'s helpers, in which -f is "fake", and
	// their exit codes.
	helper bool
}

// faceOf tells whether the program was called under the name of a face.
func faceOf(arg0 string) (face, bool) {
	switch name := filepath.Base(arg0); name {
	case "fuse-overlayfs":
		return face{name: name, kind: name, source: name}, true
	case "mount.fuse.varve", "mount.varve":
		return face{name: name, kind: "varve", helper: true}, true
	}
	return face{}, false
}

// Exit codes of a face; codeMount is what mount(8) documents for its helpers.
const (
	codeFailed = 1
	codeMount  = 32
)

// run does what the command line says and returns the exit code.
func (f face) run(args []string) int {
	r, err := f.parse(args[1:])
	if err == nil && r.told != "" {
		fmt.Print(r.told)
		return 0
	}
	var opt engine.MountOptions
	var unknown []string
	if err == nil {
		opt, unknown, err = engine.ParseMount(r.options)
	}
	if err != nil {
		f.complain(err)
		fmt.Fprintf(os.Stderr, "%s: try '%s --help'\n", f.name, f.name)
		return codeFailed
	}
	if !engine.InBackground() { // it has been said already
		for _, one := range unknown {
			fmt.Fprintf(os.Stderr, "%s: unknown option %q is ignored\n", f.name, one)
		}
	}
	if r.fake {
		return 0
	}
	opt.Named(cmp.Or(r.source, f.source), f.kind)
	if f.kind == "fuse-overlayfs" {
		opt.Whole() // the real one may be the next to read the upper, and would find zeros
	}
	f.beCalled()
	return f.code(r.mount(opt, args))
}

// beCalled has ps and pgrep show the name of the face: the process in the background
// was started by another path.
func (f face) beCalled() {
	if engine.InBackground() {
		_ = os.WriteFile("/proc/self/comm", []byte(f.name), 0) // of no consequence
	}
}

// code turns an error into a sentence and an exit code.
func (f face) code(err error) int {
	var exit exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit): // told by the process in the background
	default:
		f.complain(err)
	}
	if f.helper {
		return codeMount
	}
	return codeFailed
}

func (f face) complain(err error) {
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(os.Stderr, "%s: %s\n", f.name, strings.TrimRight(line, "\n"))
	}
}

// faceRequest is what the command line of a face asks for.
type faceRequest struct {
	mountRequest
	told string // to be printed, and nothing else done
	fake bool
}

// parse reads the command line: flags and up to two directories, in any order.
func (f face) parse(args []string) (r faceRequest, err error) {
	var dirs []string
	for len(args) > 0 && r.told == "" {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			dirs, args = append(dirs, args...), nil
		case strings.HasPrefix(arg, "--"):
			err = f.long(&r, arg)
		case len(arg) > 1 && arg[0] == '-':
			args, err = f.short(&r, arg, args)
		default:
			dirs = append(dirs, arg)
		}
		if err != nil {
			return r, err
		}
	}
	switch {
	case r.told != "":
	case len(dirs) == 1 && !f.helper:
		r.target = dirs[0]
	case len(dirs) == 2:
		r.source, r.target = dirs[0], dirs[1]
	case f.helper:
		return r, fmt.Errorf("it takes a source and a mount point, not %d words", len(dirs))
	default:
		return r, fmt.Errorf("it takes a mount point, and a source before it if wanted, not %d words", len(dirs))
	}
	return r, nil
}

func (f face) long(r *faceRequest, arg string) error {
	switch arg {
	case "--help":
		r.told = f.help()
	case "--version":
		r.told = f.version()
	case "--debug":
		r.options = append(r.options, "debug")
	default:
		return fmt.Errorf("unknown flag %s", arg)
	}
	return nil
}

// short reads one word of one-letter flags, the last of which may take a value:
// the rest of the word, or the next one.
func (f face) short(r *faceRequest, arg string, rest []string) ([]string, error) {
	for i := 1; i < len(arg); i++ {
		switch c := arg[i]; {
		case strings.IndexByte(f.valued(), c) >= 0:
			value := arg[i+1:]
			if value == "" {
				if len(rest) == 0 {
					return nil, fmt.Errorf("-%c needs a value", c)
				}
				value, rest = rest[0], rest[1:]
			}
			if c == 'o' {
				r.options = append(r.options, value)
			}
			return rest, nil
		default:
			if err := f.letter(r, c); err != nil {
				return nil, err
			}
		}
	}
	return rest, nil
}

// valued are the flags with a value. mount(8) gives -t and -N, the file system's
// type and a mount namespace that it has entered itself.
func (f face) valued() string {
	if f.helper {
		return "otN"
	}
	return "o"
}

func (f face) letter(r *faceRequest, c byte) error {
	switch {
	case c == 'h':
		r.told = f.help()
	case c == 'V':
		r.told = f.version()
	case c == 'f' && f.helper:
		r.fake = true
	case c == 'f':
		r.front = true
	case c == 'd':
		r.options = append(r.options, "debug")
	case c == 'r' && f.helper:
		r.options = append(r.options, "ro")
	case c == 's', strings.IndexByte("nvw", c) >= 0 && f.helper: // one thread; sloppy, no mtab, verbose, rw
	default:
		return fmt.Errorf("unknown flag -%c", c)
	}
	return nil
}

// version begins as that of the program whose place we take: scripts look for the
// number behind "version" to know which options they may give.
func (f face) version() string {
	if f.helper {
		return fmt.Sprintf("%s: varve version %s\n", f.name, version)
	}
	return fmt.Sprintf("%s: version 1.14 (varve version %s)\n", f.name, version)
}

func (f face) help() string {
	front := "  -f                       stay in the foreground\n"
	words := "[SOURCE] DIRECTORY"
	if f.helper {
		front = "  -f                       do everything but the mount\n"
		words = "SOURCE DIRECTORY"
	}
	return fmt.Sprintf("Usage: %s [-o OPTION[,OPTION...]] [FLAGS] %s\n\n", f.name, words) +
		"Mount the union of directories, the first of them on top.\n\n" +
		"  -o lowerdir=A[:B...]     the directories, which are never written\n" +
		"  -o upperdir=U,workdir=W  where changes go, and a directory beside it; without: read-only\n" +
		front +
		"  -d, --debug              log every request, in the foreground\n" +
		"  -V, --version            print the version\n" +
		"  -h, --help               print this\n\n" +
		"varve(1) lists all options.\n"
}
