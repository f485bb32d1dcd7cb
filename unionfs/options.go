package unionfs

import (
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// Options says what a view is made of. The zero value of each field but Lowers
// works.
type Options struct {
	// Lowers are the read-only layers, top first; at least one.
	Lowers []Lower
	// Index is the file of the layers' index, made by [BuildIndex] with the ID of each
	// of Lowers; "" merges directories as they are needed. One that can not be used is
	// [ErrIndex].
	Index string
	// Upper is the read-write layer and Work a directory on the same file system
	// for unfinished things, whose subdirectory "work" is emptied at mount. Both
	// empty: the view is read-only.
	Upper, Work string
	// Whiteout is the dialect written to the upper; Auto takes what its file
	// system can hold. Both dialects are read.
	Whiteout whiteout.Dialect
	// NoRedirect makes renaming a directory that a layer has a part in fail with
	// EXDEV, as overlayfs does with redirect_dir=off: for an upper that others read
	// who do not know redirects. It would otherwise be marked (see redirect.go).
	NoRedirect bool
	// NoMetacopy brings every file up whole. Else a change of the mode, owner, times or
	// attributes of a bigger file brings up only its metadata, in the form of
	// overlayfs' metacopy=on, where the upper's dialect is overlay, Override keeps
	// nothing, NoXattrs is not set and no layer is live. Whoever reads such an upper
	// without the layers, or without knowing that form, finds zeros.
	NoMetacopy bool
	// IO is how the data of open files travels.
	IO Mode
	// Transport is the way on which requests come.
	Transport Transport
	// NoACL leaves POSIX access lists unchecked by the kernel.
	NoACL bool
	// NoXattrs has the view know no extended attributes.
	NoXattrs bool
	// Volatile leaves out every fsync, also those that programs ask for.
	Volatile bool
	// OverflowRoot shows files whose owner has no id in this user namespace, which
	// stat calls nobody, as root's. It is for a namespace with a single id, and for
	// the files of a machine seen by an ordinary user.
	OverflowRoot bool
	// UIDs and GIDs say how ids of the layers and the upper are shown, and are
	// written; empty: as they are. An id in none of the ranges is shown as the
	// overflow id.
	UIDs, GIDs []IDRange
	// SquashUID and SquashGID, if not nil, are the owner that every file is shown
	// to have. What programs make or chown has on the disk the owner they asked for.
	SquashUID, SquashGID *uint32
	// Override says where owners, modes and devices are kept, if not on the files
	// themselves. There are no access lists then: they would set the modes of the
	// files, and their ids are not mapped.
	Override Override
	// StandIns has symbolic links, FIFOs and sockets be regular files in the upper that
	// stand for them, as devices are, where Override is OverrideUser: so they have owners,
	// too. Who reads such an upper must know that form. Those of layers are read without it.
	StandIns bool
	// Told has the view take the owner of a file from who sets the attribute [OwnerAttr]
	// of it, and that of a new file from Creator, by the thread that makes it (nil: as the
	// kernel says). For Override, where the kernel knows root alone.
	Told    bool
	Creator func(pid uint32) (uid, gid uint32) `json:"-"`
	// Tell, if not nil, is called while a thread waits for the attributes of a file that is
	// shown as another owner's: by SquashUID and SquashGID, but uid and gid it has. The kernel
	// does not keep such attributes, so that it asks again whenever a program does. Tell may be
	// called from several goroutines, and must not wait for the view.
	Tell func(pid uint32, ino uint64, uid, gid uint32) `json:"-"`
	// Validity is how long the kernel may keep what it was told; 0: an hour, and
	// below 0: not at all. It needs to be short only if somebody else changes the
	// directories, which no view promises to follow.
	Validity time.Duration
	// MaxWrite is the most bytes that the kernel sends or asks for at once; 0 is
	// 1 MiB, the most there is.
	MaxWrite int
	// AllowOther lets users other than the one who mounts in.
	AllowOther bool
	// Suid and Dev honour setuid bits and device nodes, where the mounter may.
	Suid, Dev bool
	// NoExec lets nobody run programs of the view.
	NoExec bool
	// Name is what mount(8) shows as the source, and Type what it shows behind
	// "fuse." as the type; "varve" if empty.
	Name, Type string
	// Stats, if not empty, has requests counted and timed for [Server.Stats]. It says
	// where the figures are to be had, such as the path of a socket: who has only the
	// mount point reads it with [StatsPlace].
	Stats string
	// Log gets a line for each request and each answer, if not nil.
	Log *log.Logger
}

// check finds what can not work before anything is mounted.
func (o *Options) check(mountpoint string) error {
	if (o.Upper == "") != (o.Work == "") {
		return errors.New("upperdir and workdir go together: give both, or neither for a read-only view")
	}
	if err := errors.Join(checkIDs("uidmapping", o.UIDs), checkIDs("gidmapping", o.GIDs)); err != nil {
		return err
	}
	for _, l := range o.Lowers {
		if err := checkDir("lower directory", l.Path); err != nil {
			return err
		}
	}
	if o.Upper != "" {
		if err := o.checkUpper(); err != nil {
			return err
		}
	}
	return o.checkLoops(mountpoint)
}

func checkDir(what, path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if !fi.IsDir() {
		return fmt.Errorf("%s %q is not a directory", what, path)
	}
	return nil
}

func (o *Options) checkUpper() error {
	if err := checkDir("upper directory", o.Upper); err != nil {
		return err
	}
	if err := checkDir("work directory", o.Work); err != nil {
		return err
	}
	upper, work := real(o.Upper), real(o.Work)
	if within(upper, work) || within(work, upper) {
		return fmt.Errorf("workdir %q and upperdir %q must not contain each other: make them two directories side by side",
			o.Work, o.Upper)
	}
	for _, l := range o.Lowers {
		if real(l.Path) == upper {
			return fmt.Errorf("%q is both upperdir and lowerdir: a layer can not be written and read-only at once", o.Upper)
		}
	}
	var us, ws unix.Stat_t
	if err := at.Stat(at.CWD, upper, &us); err != nil {
		return err
	}
	if err := at.Stat(at.CWD, work, &ws); err != nil {
		return err
	}
	if us.Dev != ws.Dev {
		return fmt.Errorf("workdir %q is not on the file system of upperdir %q: put it beside the upper", o.Work, o.Upper)
	}
	return nil
}

// checkLoops refuses a layer that is, or is below, the mount point: it would
// be covered by the view that is made of it. The other way round, a mount point,
// an upper or a work directory below a layer, is cut out of that layer.
func (o *Options) checkLoops(mountpoint string) error {
	mnt := real(mountpoint)
	dirs := map[string]string{}
	for _, l := range o.Lowers {
		dirs[l.Path] = "lowerdir"
	}
	if o.Upper != "" {
		dirs[o.Upper], dirs[o.Work] = "upperdir", "workdir"
	}
	for dir, what := range dirs {
		if p := real(dir); p == mnt || within(mnt, p) {
			return fmt.Errorf("%s %q is the mount point %q or inside it: mount the view somewhere else", what, dir, mountpoint)
		}
	}
	loops := []string{mnt}
	if o.Upper != "" {
		loops = append(loops, real(o.Upper), real(o.Work))
	}
	o.Lowers = slices.Clone(o.Lowers) // the caller's stay as they are
	for i := range o.Lowers {
		o.Lowers[i].cutLoops(loops)
	}
	return nil
}

func (l *Lower) cutLoops(loops []string) {
	root := real(l.Path)
	l.Cut = slices.Clone(l.Cut)
	for _, loop := range loops {
		if within(root, loop) {
			l.Cut = append(l.Cut, strings.TrimPrefix(loop, strings.TrimSuffix(root, "/")+"/"))
		}
	}
}

// real is the path with all links resolved, as far as it exists.
func real(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		return path // without a working directory: compared as it is
	}
	if r, err := filepath.EvalSymlinks(abs); err == nil {
		return r
	}
	return abs
}

// within tells whether path is strictly below dir; both are clean and absolute.
func within(dir, path string) bool {
	return path != dir && strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// leastFDs is the smallest cache of descriptors that a view gets along with.
const leastFDs = 32

// fdLimit is how many descriptors the cache of a union of so many layers may keep: half
// of what the process may open beside the layers themselves, at most 8192. Too few is
// an error.
func fdLimit(layers int) (int, error) {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 256, nil // enough, and not too many where the limit is the usual 1024
	}
	rest := int(min(r.Cur, 1<<20)) - layers - spareFDs
	if rest < 2*leastFDs {
		return 0, fmt.Errorf("a union of %d directories needs %d open files, and this process may have %d: raise its limit with \"ulimit -n\": %w",
			layers, layers+spareFDs+2*leastFDs, r.Cur, unix.EMFILE)
	}
	return min(rest/2, 8192), nil
}
