package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/unionfs"
	"github.com/varvefs/varve/whiteout"
)

func lowerPaths(opt unionfs.Options) (list []string) {
	for _, l := range opt.Lowers {
		list = append(list, l.Path)
	}
	return list
}

// TestParseMountPaths: what callers write, among them containers/storage, which
// gives paths relative to its directory and quotes a context.
func TestParseMountPaths(t *testing.T) {
	here, err := os.Getwd()
	require.NoError(t, err)
	for text, want := range map[string]struct {
		lowers      []string
		upper, work string
	}{
		`lowerdir=/a`: {lowers: []string{"/a"}},
		`lowerdir=/a:/b\:c:/d\,e,upperdir=/u\,v,workdir=/w\\x`:                            {[]string{"/a", "/b:c", "/d,e"}, "/u,v", `/w\x`},
		`lowerdir=l/AB:l/CD,upperdir=id/diff,workdir=id/work`:                             {[]string{here + "/l/AB", here + "/l/CD"}, here + "/id/diff", here + "/id/work"},
		`context="system_u:object_r:t:s0:c1,c2",lowerdir=/a`:                              {lowers: []string{"/a"}},
		`lowerdir=/a,upperdir=/u,workdir=/w,volatile,context="x,lowerdir=/no,upperdir=y"`: {[]string{"/a"}, "/u", "/w"},
		`lowerdir=/no,lowerdir=/a:/b/`:                                                    {lowers: []string{"/a", "/b"}},
		`lowerdir=/with"quote,upperdir=/u"x,workdir=/w`:                                   {[]string{`/with"quote`}, `/u"x`, "/w"},
		`,,lowerdir=/a,,`: {lowers: []string{"/a"}},
	} {
		m, unknown, err := ParseMount([]string{text})
		require.NoError(t, err, text)
		require.Empty(t, unknown, text)
		opt := m.options()
		require.Equal(t, want.lowers, lowerPaths(opt), text)
		require.Equal(t, want.upper, opt.Upper, text)
		require.Equal(t, want.work, opt.Work, text)
	}
}

func TestParseMountMeanings(t *testing.T) {
	three, zero := uint32(3), uint32(0)
	for text, check := range map[string]func(o unionfs.Options) bool{
		"uidmapping=:0:100000:65536:70000:5:1": func(o unionfs.Options) bool {
			return len(o.UIDs) == 2 && o.UIDs[0] == unionfs.IDRange{OnDisk: 0, Shown: 100000, Length: 65536} && o.UIDs[1].Shown == 5 && o.GIDs == nil
		},
		"gidmapping=1:2:3":               func(o unionfs.Options) bool { return o.GIDs[0] == unionfs.IDRange{OnDisk: 1, Shown: 2, Length: 3} },
		"squash_to_uid=3":                func(o unionfs.Options) bool { return *o.SquashUID == three && o.SquashGID == nil },
		"squash_to_root":                 func(o unionfs.Options) bool { return *o.SquashUID == zero && *o.SquashGID == zero },
		"squash_to_gid=3,squash_to_root": func(o unionfs.Options) bool { return *o.SquashUID == zero && *o.SquashGID == three },
		"xattr_permissions=2":            func(o unionfs.Options) bool { return o.Override == unionfs.OverrideUser },
		"xattr_permissions=1":            func(o unionfs.Options) bool { return o.Override == unionfs.OverrideSecurity },
		"volatile":                       func(o unionfs.Options) bool { return o.Volatile },
		"fsync=0":                        func(o unionfs.Options) bool { return o.Volatile },
		"fsync=1":                        func(o unionfs.Options) bool { return !o.Volatile },
		"timeout=0":                      func(o unionfs.Options) bool { return o.Validity < 0 },
		"timeout=2.5":                    func(o unionfs.Options) bool { return o.Validity == 2500*time.Millisecond },
		"timeout=1e20":                   func(o unionfs.Options) bool { return o.Validity > time.Hour },
		"noacl,noxattrs=1":               func(o unionfs.Options) bool { return o.NoACL && o.NoXattrs },
		"noxattrs=0":                     func(o unionfs.Options) bool { return !o.NoXattrs },
		"noexec,nosuid,nodev":            func(o unionfs.Options) bool { return o.NoExec && !o.Suid && !o.Dev },
		"dev,suid,rw":                    func(o unionfs.Options) bool { return o.Dev && o.Suid },
		"redirect_dir=off":               func(o unionfs.Options) bool { return o.NoRedirect },
		"redirect_dir=on":                func(o unionfs.Options) bool { return !o.NoRedirect },
		"metacopy=off":                   func(o unionfs.Options) bool { return o.NoMetacopy },
		"metacopy=off,metacopy=on":       func(o unionfs.Options) bool { return !o.NoMetacopy },
		"max_write=65536":                func(o unionfs.Options) bool { return o.MaxWrite == 65536 },
		"max_write=16777216":             func(o unionfs.Options) bool { return o.MaxWrite == 1<<20 },
		"io=plain":                       func(o unionfs.Options) bool { return o.IO == unionfs.Plain },
		"transport=uring":                func(o unionfs.Options) bool { return o.Transport == unionfs.TransportUring },
		"transport=":                     func(o unionfs.Options) bool { return o.Transport == unionfs.TransportAuto },
		"whiteout=oci":                   func(o unionfs.Options) bool { return o.Whiteout == whiteout.OCI },
		"fsname=two words":               func(o unionfs.Options) bool { return o.Name == "two words" },
		"stats=/run/\\,s":                func(o unionfs.Options) bool { return o.Stats == "/run/,s" },
		"debug":                          func(o unionfs.Options) bool { return o.Log != nil },
		"ro": func(o unionfs.Options) bool {
			return o.Upper == "" && o.Work == "" && o.Lowers[0].Path == "/u" && len(o.Lowers) == 2
		},
		"ro,rw": func(o unionfs.Options) bool { return o.Upper == "/u" },
	} {
		m, unknown, err := ParseMount([]string{"lowerdir=/l,upperdir=/u,workdir=/w", text})
		require.NoError(t, err, text)
		require.Empty(t, unknown, text)
		require.True(t, check(m.options()), text)
	}
}

// TestParseMountIgnores: what callers add and what means nothing here passes; what
// nobody knows is told once.
func TestParseMountIgnores(t *testing.T) {
	_, unknown, err := ParseMount([]string{
		"lowerdir=/l,metacopy=on,private,xino=auto,index=off,threaded=0,default_permissions,x-systemd.automount,_netdev,noatime",
		"bogus,worse=2", "defaults,index=dir"})
	require.NoError(t, err)
	require.Equal(t, []string{"bogus", "worse=2", "index=dir"}, unknown)
}

func TestParseMountRefuses(t *testing.T) {
	for _, bad := range []string{
		"lowerdir=", "lowerdir=/a::/b", "lowerdir=/a:", "upperdir=", "workdir", "uidmapping=", "uidmapping=0:1", "uidmapping=0:a:1",
		"gidmapping=0:1:-1", "squash_to_uid", "squash_to_uid=-1", "squash_to_gid=4294967295", "xattr_permissions=3", "xattr_permissions=",
		"volatile=2", "fsync=yes", "timeout", "timeout=-1", "timeout=NaN", "timeout=soon", "redirect_dir=maybe", "metacopy=", "max_write=0", "max_write=1M",
		"io=fast", "transport=fast", "whiteout=aufs", "ro=2", "stats", "stats=",
	} {
		_, _, err := ParseMount([]string{"lowerdir=/l", bad})
		require.ErrorContains(t, err, bad, "the option is named")
	}
	_, _, err := ParseMount([]string{"upperdir=/u,workdir=/w"})
	require.ErrorContains(t, err, "at least one lower directory")
}

// TestParseMountMany: the limit of overlayfs, 500 layers, is none here.
func TestParseMountMany(t *testing.T) {
	text := "lowerdir=" + filepath.Join("/", "layer")
	for range 999 {
		text += ":/layer"
	}
	m, _, err := ParseMount([]string{text})
	require.NoError(t, err)
	require.Len(t, m.options().Lowers, 1000)
}

// TestManualNamesOptions: the manual page has each option that means something.
func TestManualNamesOptions(t *testing.T) {
	page, err := os.ReadFile("../../docs/man/varve.1")
	require.NoError(t, err)
	text := strings.ReplaceAll(string(page), `\-`, "-")
	for name := range mountOptions {
		require.Regexp(t, `(?m)^\.[A-Z]+ .*\b`+name+`\b`, text, name)
	}
}
