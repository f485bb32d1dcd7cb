package engine

import (
	"errors"
	"fmt"
	"log"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/varvefs/varve/unionfs"
	"github.com/varvefs/varve/whiteout"
)

// MountOptions are what a mount of directories asks for.
type MountOptions struct {
	view     unionfs.Options
	readOnly bool // in spite of an upper, which is then the topmost lower
	debug    bool
	stats    string // path of the stats socket; "": none
	indexDir string // where the index of the lowers is kept; "" for none
}

// mountOption reads the value of one option; given says that it has one.
type mountOption func(m *MountOptions, value string, given bool) error

// mountOptions are all options that mean something, by name: those of
// fuse-overlayfs(1), those of overlayfs that a caller may add, those of mount(8),
// and our own.
var mountOptions = map[string]mountOption{
	"lowerdir":       lowerDirs,
	"upperdir":       func(m *MountOptions, v string, _ bool) (err error) { m.view.Upper, err = onePath(v); return err },
	"workdir":        func(m *MountOptions, v string, _ bool) (err error) { m.view.Work, err = onePath(v); return err },
	"uidmapping":     func(m *MountOptions, v string, _ bool) (err error) { m.view.UIDs, err = triples(v); return err },
	"gidmapping":     func(m *MountOptions, v string, _ bool) (err error) { m.view.GIDs, err = triples(v); return err },
	"squash_to_root": squashToRoot,
	"squash_to_uid":  func(m *MountOptions, v string, _ bool) (err error) { m.view.SquashUID, err = oneID(v); return err },
	"squash_to_gid":  func(m *MountOptions, v string, _ bool) (err error) { m.view.SquashGID, err = oneID(v); return err },
	"xattr_permissions": func(m *MountOptions, v string, _ bool) error {
		n, err := number(v, 0, int(unionfs.OverrideUser))
		m.view.Override = unionfs.Override(n)
		return err
	},
	"noacl":    flag(func(m *MountOptions, on bool) { m.view.NoACL = on }),
	"noxattrs": flag(func(m *MountOptions, on bool) { m.view.NoXattrs = on }),
	"volatile": flag(func(m *MountOptions, on bool) { m.view.Volatile = on }),
	"fsync":    flag(func(m *MountOptions, on bool) { m.view.Volatile = !on }),
	"ro":       flag(func(m *MountOptions, on bool) { m.readOnly = on }),
	"rw":       flag(func(m *MountOptions, on bool) { m.readOnly = !on }),
	"suid":     flag(func(m *MountOptions, on bool) { m.view.Suid = on }),
	"nosuid":   flag(func(m *MountOptions, on bool) { m.view.Suid = !on }),
	"dev":      flag(func(m *MountOptions, on bool) { m.view.Dev = on }),
	"nodev":    flag(func(m *MountOptions, on bool) { m.view.Dev = !on }),
	"exec":     flag(func(m *MountOptions, on bool) { m.view.NoExec = !on }),
	"noexec":   flag(func(m *MountOptions, on bool) { m.view.NoExec = on }),
	"debug":    flag(func(m *MountOptions, on bool) { m.debug = on }),
	// The kernel lets in all or one; root, who may mount as root, is let in by both.
	"allow_other":  flag(func(m *MountOptions, on bool) { m.view.AllowOther = on }),
	"allow_root":   flag(func(m *MountOptions, on bool) { m.view.AllowOther = m.view.AllowOther || on && os.Geteuid() == 0 }),
	"timeout":      timeout,
	"redirect_dir": redirectDir,
	"metacopy":     metacopy,
	"index":        indexOption,
	"fsname":       func(m *MountOptions, v string, _ bool) error { m.view.Name = plain(v); return nil },
	"max_write": func(m *MountOptions, v string, _ bool) (err error) {
		m.view.MaxWrite, err = number(v, 4096, math.MaxInt32)
		m.view.MaxWrite = min(m.view.MaxWrite, 1<<20)
		return err
	},
	"io": func(m *MountOptions, v string, _ bool) (err error) { m.view.IO, err = unionfs.ParseMode(v); return err },
	"transport": func(m *MountOptions, v string, _ bool) (err error) {
		m.view.Transport, err = unionfs.ParseTransport(v)
		return err
	},
	"whiteout": dialect,
	"stats":    func(m *MountOptions, v string, _ bool) (err error) { m.stats, err = onePath(v); return err },
}

// meaningless are options that callers add and that change nothing here: what they
// ask for is always or never so, or is about another implementation. The values
// are not looked at.
var meaningless = words(`
	default_permissions static_nlink xino userxattr uuid verity nfs_export threaded writeback fast_ino
	plugins context fscontext defcontext rootcontext seclabel
	private rprivate shared rshared slave rslave unbindable runbindable bind rbind remount
	atime noatime relatime norelatime strictatime nostrictatime lazytime nolazytime diratime nodiratime
	async sync dirsync mand nomand iversion noiversion silent loud defaults
	auto noauto user nouser users group owner _netdev nofail comment
	nonempty auto_unmount clone_fd max_threads max_idle_threads subtype kernel_cache auto_cache max_background
	congestion_threshold max_read large_read big_writes hard_remove use_ino readdir_ino direct_io
	entry_timeout negative_timeout attr_timeout acl xattr`)

func words(text string) map[string]bool {
	set := map[string]bool{}
	for word := range strings.FieldsSeq(text) {
		set[word] = true
	}
	return set
}

// ParseMount reads options in the form of mount(8): names and name=value, separated
// by commas. A backslash takes the next character as it is, and a value in double
// quotes may hold commas; in lowerdir directories are separated by colons. Relative
// paths are of the working directory of now. The last of several counts.
//
// unknown lists the options that it does not know, as they were written. A value
// that is wrong is an error that names the option.
func ParseMount(list []string) (m MountOptions, unknown []string, err error) {
	root := os.Geteuid() == 0
	m.view.AllowOther, m.view.Suid = root, root
	for _, text := range list {
		for _, one := range split(text, ',') {
			name, value, given := strings.Cut(one, "=")
			parse, known := mountOptions[name]
			switch {
			case known:
				err := parse(&m, value, given)
				if errors.Is(err, errUnknown) {
					unknown = append(unknown, one)
				} else if err != nil {
					return m, unknown, fmt.Errorf("mount option %q: %w", one, err)
				}
			case name == "" || meaningless[name] || strings.HasPrefix(name, "x-"):
			default:
				unknown = append(unknown, one)
			}
		}
	}
	if len(m.view.Lowers) == 0 {
		return m, unknown, errors.New("a union needs at least one lower directory: -o lowerdir=DIRECTORY")
	}
	return m, unknown, nil
}

// Named says what mount(8) is to show: the source, if not "", and the type behind
// "fuse.".
func (m *MountOptions) Named(source, kind string) {
	if source != "" {
		m.view.Name = source
	}
	m.view.Type = kind
}

// Whole has every file of the upper come up with its data, whatever the options say:
// for a mount whose upper is read by programs that know no other files.
func (m *MountOptions) Whole() { m.view.NoMetacopy = true }

// InFront tells whether the options keep the mount in the foreground.
func (m *MountOptions) InFront() bool { return m.debug }

// options are those of the view.
func (m *MountOptions) options() unionfs.Options {
	view := m.view
	view.Stats = m.stats
	if m.readOnly && view.Upper != "" {
		view.Lowers = append([]unionfs.Lower{{Path: view.Upper}}, view.Lowers...)
		view.Upper, view.Work = "", ""
	}
	if m.debug {
		view.Log = log.New(os.Stderr, "", log.Lmicroseconds)
	}
	return view
}

func lowerDirs(m *MountOptions, value string, _ bool) error {
	m.view.Lowers = nil
	for _, text := range split(value, ':') {
		dir, err := onePath(text)
		if err != nil {
			return err
		}
		m.view.Lowers = append(m.view.Lowers, unionfs.Lower{Path: dir})
	}
	return nil
}

// onePath takes the backslashes away and makes the path absolute, since the
// working directory will be left.
func onePath(text string) (string, error) {
	path := plain(text)
	if path == "" {
		return "", errors.New("a path is empty")
	}
	return filepath.Abs(path)
}

// triples reads id mappings as containers/storage writes them, with a colon before
// the first: ids on the disk, ids shown, how many.
func triples(value string) ([]unionfs.IDRange, error) {
	field := strings.Split(strings.Trim(value, ":"), ":")
	if len(field)%3 != 0 {
		return nil, errors.New("it takes triples of numbers: ID on the disk, ID shown, LENGTH")
	}
	var ids []uint32
	for _, f := range field {
		id, err := strconv.ParseUint(f, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%q is no id", f)
		}
		ids = append(ids, uint32(id))
	}
	var list []unionfs.IDRange
	for ; len(ids) > 0; ids = ids[3:] {
		list = append(list, unionfs.IDRange{OnDisk: ids[0], Shown: ids[1], Length: ids[2]})
	}
	return list, nil
}

func oneID(value string) (*uint32, error) {
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil || n == math.MaxUint32 {
		return nil, fmt.Errorf("%q is no id", value)
	}
	id := uint32(n)
	return &id, nil
}

// squashToRoot leaves alone what squash_to_uid and squash_to_gid say, which are
// more exact.
func squashToRoot(m *MountOptions, value string, given bool) error {
	root := uint32(0)
	return flag(func(m *MountOptions, on bool) {
		if on && m.view.SquashUID == nil {
			m.view.SquashUID = &root
		}
		if on && m.view.SquashGID == nil {
			m.view.SquashGID = &root
		}
	})(m, value, given)
}

// timeout is how many seconds the kernel may keep what it was told.
func timeout(m *MountOptions, value string, _ bool) error {
	seconds, err := strconv.ParseFloat(value, 64)
	if err != nil || !(seconds >= 0) {
		return fmt.Errorf("%q is no number of seconds", value)
	}
	m.view.Validity = time.Duration(min(seconds, 1e9) * float64(time.Second))
	if m.view.Validity == 0 {
		m.view.Validity = -1
	}
	return nil
}

// redirectDir takes the values of overlayfs. Redirects are always followed.
func redirectDir(m *MountOptions, value string, _ bool) error {
	switch value {
	case "on", "follow":
		m.view.NoRedirect = false
	case "off", "nofollow":
		m.view.NoRedirect = true
	default:
		return errors.New("it is one of on, off, follow and nofollow")
	}
	return nil
}

// metacopy takes the values of overlayfs.
func metacopy(m *MountOptions, value string, _ bool) error {
	if value != "on" && value != "off" {
		return errors.New("it is on or off")
	}
	m.view.NoMetacopy = value == "off"
	return nil
}

// errUnknown is what an option says of a value that belongs to another option of
// the same name.
var errUnknown = errors.New("unknown")

func dialect(m *MountOptions, value string, _ bool) (err error) {
	m.view.Whiteout, err = whiteout.ParseDialect(value)
	return err
}

// flag is an option that is on by itself and may be said to be so: name, name=1,
// name=0.
func flag(set func(m *MountOptions, on bool)) mountOption {
	return func(m *MountOptions, value string, given bool) error {
		n, err := 1, error(nil)
		if given {
			n, err = number(value, 0, 1)
		}
		set(m, n == 1)
		return err
	}
}

func number(value string, least, most int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("it is a number from %d to %d", least, most)
	}
	return n, nil
}

// split cuts text at each sep that no backslash stands before and that is not in a
// value in double quotes.
func split(text string, sep byte) []string {
	var parts []string
	start, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\':
			i++
		case c == '"' && (quoted || i > 0 && text[i-1] == '='):
			quoted = !quoted
		case c == sep && !quoted:
			parts = append(parts, text[start:i])
			start = i + 1
		}
	}
	return append(parts, text[start:])
}

// plain takes the backslashes away.
func plain(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+1 < len(text) {
			i++
		}
		b.WriteByte(text[i])
	}
	return b.String()
}
