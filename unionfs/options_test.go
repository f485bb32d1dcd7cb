package unionfs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
	"github.com/varvefs/varve/whiteout"
)

// TestMountRefuses: what can not work is refused with a sentence, and nothing
// stays mounted.
func TestMountRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(w *world, o *Options)
		says   string
	}{
		"no lower":        {func(_ *world, o *Options) { o.Lowers = nil }, "at least one lower directory"},
		"missing lower":   {func(w *world, o *Options) { o.Lowers[0].Path = w.mnt + "/none" }, "lower directory: stat"},
		"lower is a file": {func(w *world, o *Options) { o.Lowers[0].Path = fileIn(w) }, "is not a directory"},
		"missing upper":   {func(w *world, o *Options) { o.Upper = w.mnt + "/none" }, "upper directory: stat"},
		"upper alone":     {func(_ *world, o *Options) { o.Work = "" }, "upperdir and workdir go together"},
		"work alone":      {func(_ *world, o *Options) { o.Upper = "" }, "upperdir and workdir go together"},
		"upper is lower":  {func(w *world, o *Options) { o.Upper = w.lowers[0] }, "is both upperdir and lowerdir"},
		"work in upper":   {func(w *world, o *Options) { o.Work = sub(w.upper, "w") }, "must not contain each other"},
		"upper in work":   {func(w *world, o *Options) { o.Upper = sub(w.work, "u") }, "must not contain each other"},
		"lower is mount":  {func(w *world, o *Options) { o.Lowers[0].Path = w.mnt }, "is the mount point"},
		"lower in mount":  {func(w *world, o *Options) { o.Lowers[0].Path = sub(w.mnt, "l") }, "or inside it"},
		"upper in mount":  {func(w *world, o *Options) { o.Upper = sub(w.mnt, "u") }, "or inside it"},
		"work elsewhere":  {func(_ *world, o *Options) { o.Work = "/dev/shm" }, "put it beside the upper"},
		"too many lowers": {func(w *world, o *Options) { o.Lowers = make([]Lower, 1<<16) }, "lower directory"},
		"lower through link": {func(w *world, o *Options) {
			link := filepath.Join(filepath.Dir(w.mnt), "link")
			must(os.Symlink(w.mnt, link))
			o.Lowers[0].Path = link
		}, "is the mount point"},
	} {
		t.Run(name, func(t *testing.T) {
			testenv.CheckLeaks(t)
			w := newWorld(t, 1)
			opt := w.options()
			c.change(w, &opt)
			s, err := Mount(w.mnt, opt)
			if err == nil {
				require.NoError(t, s.Unmount())
			}
			require.ErrorContains(t, err, c.says)
		})
	}
	t.Run("mount point is a file", func(t *testing.T) {
		w := newWorld(t, 1)
		_, err := Mount(fileIn(w), w.options())
		require.ErrorContains(t, err, "is not a directory")
	})
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func fileIn(w *world) string {
	p := filepath.Join(filepath.Dir(w.mnt), "file")
	must(os.WriteFile(p, nil, 0o600))
	return p
}

func sub(dir, name string) string {
	p := filepath.Join(dir, name)
	must(os.Mkdir(p, 0o755))
	return p
}

// TestUpperInUse: two views must not write to one upper.
func TestUpperInUse(t *testing.T) {
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	w.mount(t, w.options())
	_, err := Mount(sub(filepath.Dir(w.mnt), "second"), w.options())
	require.ErrorContains(t, err, "is in use by another mount")
	w.unmount(t)
	w.mount(t, w.options())
}

// TestLoopsAreCut: a mount point, an upper and a work directory inside a lower
// directory are seen empty, and looking at them does not hang.
func TestLoopsAreCut(t *testing.T) {
	testenv.CheckLeaks(t)
	root := t.TempDir()
	mnt, upper, work := sub(root, "mnt"), sub(root, "upper"), sub(root, "work")
	must(os.WriteFile(filepath.Join(root, "file"), []byte("seen"), 0o644))
	must(os.WriteFile(filepath.Join(upper, "new"), []byte("upper"), 0o644))
	s, err := Mount(mnt, Options{Lowers: []Lower{{Path: root}}, Upper: upper, Work: work})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Unmount()) }()
	for _, dir := range []string{"mnt", "upper", "work"} {
		list, err := os.ReadDir(filepath.Join(mnt, dir))
		require.NoError(t, err)
		require.Empty(t, list, dir)
		require.ErrorIs(t, os.WriteFile(filepath.Join(mnt, dir, "x"), nil, 0o600), unix.EROFS)
		require.ErrorIs(t, os.Remove(filepath.Join(mnt, dir)), unix.EBUSY)
	}
	data, err := os.ReadFile(filepath.Join(mnt, "file"))
	require.NoError(t, err)
	require.Equal(t, "seen", string(data))
	data, err = os.ReadFile(filepath.Join(mnt, "new"))
	require.NoError(t, err)
	require.Equal(t, "upper", string(data))
}

func TestReadOnlyView(t *testing.T) {
	testenv.CheckLeaks(t)
	w := newWorld(t, 2)
	must(os.WriteFile(filepath.Join(w.lowers[1], "file"), []byte("x"), 0o644))
	opt := w.options()
	opt.Upper, opt.Work = "", ""
	w.mount(t, opt)
	data, err := os.ReadFile(filepath.Join(w.mnt, "file"))
	require.NoError(t, err)
	require.Equal(t, "x", string(data))
	require.ErrorIs(t, os.WriteFile(filepath.Join(w.mnt, "file"), nil, 0o600), unix.EROFS)
	require.ErrorIs(t, os.Mkdir(filepath.Join(w.mnt, "d"), 0o700), unix.EROFS)
}

// TestFullDisk: a copy-up that does not fit says so, leaves nothing behind, and
// the lower file is seen as before.
func TestFullDisk(t *testing.T) {
	testenv.Root(t)
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	big := make([]byte, 2<<20)
	must(os.WriteFile(filepath.Join(w.lowers[0], "big"), big, 0o644))
	small := sub(filepath.Dir(w.mnt), "small")
	require.NoError(t, unix.Mount("small", small, "tmpfs", 0, "size=1m"))
	defer func() { require.NoError(t, unix.Unmount(small, 0)) }()
	opt := w.options()
	opt.Upper, opt.Work = sub(small, "upper"), sub(small, "work")
	w.mount(t, opt)
	f, err := os.OpenFile(filepath.Join(w.mnt, "big"), os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("x"), 0)
	require.ErrorIs(t, err, unix.ENOSPC)
	got := make([]byte, len(big))
	_, err = f.ReadAt(got, 0)
	require.NoError(t, err)
	require.Equal(t, big, got)
	require.NoError(t, f.Close())
	for _, dir := range []string{opt.Upper, filepath.Join(opt.Work, "work")} {
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, left)
	}
	require.NoError(t, os.WriteFile(filepath.Join(w.mnt, "small"), []byte("fits"), 0o600))
	w.unmount(t)
}

// TestLongDirectoryMoves: in the OCI dialect a name that has no room for the prefix is
// hidden by a device, also where the directory that had it moved to a hidden name.
func TestLongDirectoryMoves(t *testing.T) {
	testenv.CheckLeaks(t)
	w := newWorld(t, 1)
	long := strings.Repeat("n", 255)
	mkdir(t, w.lowers[0], long)
	mkdir(t, w.lowers[0], "short")
	opt := w.options()
	opt.Whiteout = whiteout.OCI
	w.mount(t, opt)
	require.NoError(t, os.Remove(filepath.Join(w.mnt, "short")))
	require.NoError(t, os.Rename(filepath.Join(w.mnt, long), filepath.Join(w.mnt, "short")))
	w.unmount(t)
	w.mount(t, opt)
	list, err := listDir(w.mnt)
	require.NoError(t, err)
	require.Equal(t, "short d---------", list)
}

func TestNames(t *testing.T) {
	testenv.CheckLeaks(t)
	for _, d := range []whiteout.Dialect{whiteout.Overlay, whiteout.OCI} {
		t.Run(d.String(), func(t *testing.T) {
			w := newWorld(t, 1)
			longest := strings.Repeat("n", 255)
			must(os.WriteFile(filepath.Join(w.lowers[0], longest), []byte("low"), 0o644))
			opt := w.options()
			opt.Whiteout = d
			w.mount(t, opt)
			data, err := os.ReadFile(filepath.Join(w.mnt, longest))
			require.NoError(t, err)
			require.Equal(t, "low", string(data))
			require.NoError(t, os.WriteFile(filepath.Join(w.mnt, strings.Repeat("m", 255)), nil, 0o600))
			require.ErrorIs(t, os.WriteFile(filepath.Join(w.mnt, strings.Repeat("m", 256)), nil, 0o600), unix.ENAMETOOLONG)
			require.ErrorIs(t, os.WriteFile(filepath.Join(w.mnt, ".wh.x"), nil, 0o600), unix.EINVAL)
			require.NoError(t, os.Remove(filepath.Join(w.mnt, longest)))
			_, err = os.Lstat(filepath.Join(w.mnt, longest))
			require.ErrorIs(t, err, unix.ENOENT)
			w.unmount(t)
			w.mount(t, opt)
			_, err = os.Lstat(filepath.Join(w.mnt, longest))
			require.ErrorIs(t, err, unix.ENOENT)
		})
	}
}
