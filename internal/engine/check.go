package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// CheckOptions say what [CheckLayer] is to do beside looking.
type CheckOptions struct {
	// Convert is "overlay" or "oci": the dialect that the marks are rewritten in; "" to
	// leave them as they are.
	Convert string
	// Work is the upper's work directory, to be looked at, too; "" if it has none.
	Work string
}

// LayerCheck is what was found in the directory of a layer, or of an upper. If it was
// converted, that is what was found then.
type LayerCheck struct {
	Dir string `json:"dir"`
	*whiteout.Survey
	// ConvertedTo is the dialect; "" if it was only looked at.
	ConvertedTo string               `json:"converted_to,omitempty"`
	Conversion  *whiteout.Conversion `json:"conversion,omitempty"`
}

// CheckLayer surveys a layer directory. If it is to be converted, nobody may use it,
// and nothing is changed if not all of it can be said in the other dialect, if it is
// damaged, or if marks may not be written here.
func CheckLayer(dir string, opt CheckOptions) (*LayerCheck, error) {
	root, err := at.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(root) }() // read only
	check := &LayerCheck{Dir: dir}
	if opt.Convert != "" {
		if err := check.convert(root, opt); err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
	}
	if check.Survey, err = whiteout.Look(root); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if opt.Work != "" {
		if err := check.leftovers(opt.Work); err != nil {
			return nil, err
		}
	}
	return check, nil
}

func (c *LayerCheck) convert(root int, opt CheckOptions) error {
	to, err := whiteout.ParseDialect(opt.Convert)
	if err != nil || to == whiteout.Auto {
		return fmt.Errorf("it can not be converted to %q: the dialects are overlay and oci", opt.Convert)
	}
	unlock, err := lockUnused(root, opt.Work)
	if err != nil {
		return err
	}
	defer unlock()
	done, err := whiteout.Convert(root, to)
	if errors.Is(err, whiteout.ErrBarred) {
		return barred(root, to)
	}
	if err != nil {
		return fmt.Errorf("convert to %v: %w; it means what it meant, and you may begin again", to, err)
	}
	c.ConvertedTo, c.Conversion = to.String(), &done
	return nil
}

// barred has a line for each reason why a layer can not be converted.
func barred(root int, to whiteout.Dialect) error {
	s, err := whiteout.Look(root)
	if err != nil {
		return err
	}
	errs := []error{fmt.Errorf("it can not be converted to %v, and nothing was changed", to)}
	for _, one := range s.Bars(to) {
		errs = append(errs, errors.New(one.String()))
	}
	return errors.Join(errs...)
}

// lockUnused makes sure that no view is made of the directory behind root, and that
// none will be before root is closed and unlock called.
func lockUnused(root int, work string) (unlock func(), err error) {
	if err := errors.Join(notOverlay(root), lockNow(root)); err != nil {
		return nil, err
	}
	if work == "" {
		return func() {}, nil
	}
	fd, err := at.OpenRoot(filepath.Join(work, insideWork))
	if errors.Is(err, os.ErrNotExist) { // no view has used it yet
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	unlock = func() { _ = unix.Close(fd) } // read only
	if err := lockNow(fd); err != nil {
		unlock()
		return nil, fmt.Errorf("work directory %s: %w", work, err)
	}
	return unlock, nil
}

// insideWork is what a view works in, in the work directory.
const insideWork = "work"

func lockNow(fd int) error {
	err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errors.New("a mounted view uses it: unmount that first")
	}
	return nil // or the file system has no locks: then there is nobody to ask
}

// notOverlay looks for the directory behind root in the kernel's overlay mounts that
// this process can see, and that were given absolute paths.
func notOverlay(root int) error {
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(table)) {
		_, right, _ := strings.Cut(line, " - overlay ")
		for _, dir := range overlayDirs(right) {
			var other unix.Stat_t
			if at.Stat(at.CWD, dir, &other) == nil && other.Dev == st.Dev && other.Ino == st.Ino {
				return fmt.Errorf("overlayfs has %s mounted: unmount that first", dir)
			}
		}
	}
	return nil
}

// overlayDirs are the absolute paths among the directories in the options of an
// overlay mount, as mountinfo has them: SOURCE OPTIONS.
func overlayDirs(text string) (dirs []string) {
	_, options, _ := strings.Cut(strings.TrimSpace(text), " ")
	for _, one := range split(unescapeOctal(options), ',') {
		name, value, _ := strings.Cut(one, "=")
		list := []string{value}
		switch name {
		case "lowerdir":
			list = split(value, ':')
		case "upperdir", "lowerdir+", "datadir+": // each is one directory
		default:
			continue
		}
		for _, dir := range list {
			if dir = plain(dir); filepath.IsAbs(dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}

// unescapeOctal undoes the escapes of mountinfo, but leaves the backslashes that
// overlayfs writes before a colon or a comma.
func unescapeOctal(text string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\054`, ",", `\134`, `\`).Replace(text)
}

// leftovers finds what a view has left in its work directory that was killed.
func (c *LayerCheck) leftovers(work string) error {
	fd, err := at.OpenRoot(filepath.Join(work, insideWork))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // read only
	list, err := at.ReadDir(fd)
	for _, e := range list {
		c.Problems = append(c.Problems, whiteout.Finding{
			Path: filepath.Join(work, insideWork, e.Name), What: "left unfinished by a view; the next mount removes it",
		})
	}
	return err
}
