package copyup

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
)

// place is a lower directory, a work directory and an upper, with their descriptors.
type place struct {
	lowerDir, workDir, upperDir string
	lower, work, upper          int
}

func newPlace(t *testing.T) *place {
	t.Helper()
	root := t.TempDir()
	open := func(name string) (string, int) {
		p := filepath.Join(root, name)
		require.NoError(t, os.Mkdir(p, 0o755))
		fd, err := at.OpenRoot(p)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, unix.Close(fd)) })
		return p, fd
	}
	p := &place{}
	p.lowerDir, p.lower = open("lower")
	p.workDir, p.work = open("work")
	p.upperDir, p.upper = open("upper")
	return p
}

func (p *place) job(t *testing.T, name string) Job {
	t.Helper()
	j := Job{Lower: p.lower, LowerName: name, Work: p.work, Temp: "temp"}
	require.NoError(t, at.Stat(p.lower, name, &j.Stat))
	return j
}

// kinds makes one lower file of each kind and returns their names.
func (p *place) kinds(t *testing.T) []string {
	t.Helper()
	in := func(name string) string { return filepath.Join(p.lowerDir, name) }
	require.NoError(t, os.WriteFile(in("file"), bytes.Repeat([]byte("data "), 50_000), 0o600))
	require.NoError(t, unix.Setxattr(in("file"), "user.note", []byte("kept"), 0))
	require.NoError(t, unix.Setxattr(in("file"), "user.overlay.origin", []byte("ours"), 0))
	require.NoError(t, os.Chmod(in("file"), 0o641|os.ModeSetuid))
	require.NoError(t, os.WriteFile(in("empty"), nil, 0o600))
	require.NoError(t, unix.Setxattr(in("empty"), "user.note", []byte("kept"), 0))
	require.NoError(t, os.Chmod(in("empty"), 0o444)) // which keeps its owner from setting attributes
	require.NoError(t, os.Mkdir(in("dir"), 0o750))
	require.NoError(t, os.WriteFile(in("dir/child"), nil, 0o600))
	require.NoError(t, os.Symlink("some/where", in("link")))
	require.NoError(t, unix.Mkfifo(in("fifo"), 0o606))
	names := []string{"file", "empty", "dir", "link", "fifo"}
	if os.Geteuid() == 0 {
		require.NoError(t, unix.Mknod(in("device"), unix.S_IFCHR|0o622, int(unix.Mkdev(1, 3))))
		names = append(names, "device")
		for i, name := range names {
			require.NoError(t, os.Lchown(in(name), 1000+i, 2000+i))
		}
		require.NoError(t, os.Chmod(in("file"), 0o641|os.ModeSetuid)) // chown cleared it
	}
	for _, name := range names {
		times := []unix.Timespec{{Sec: 1000, Nsec: 1}, {Sec: 2000, Nsec: 987654321}}
		require.NoError(t, unix.UtimesNanoAt(unix.AT_FDCWD, in(name), times, unix.AT_SYMLINK_NOFOLLOW))
	}
	return names
}

func TestUpKeepsWhatAFileIs(t *testing.T) {
	p := newPlace(t)
	for _, name := range p.kinds(t) {
		staged, err := Stage(p.job(t, name))
		require.NoError(t, err, name)
		require.NoError(t, staged.Publish(p.upper, name))
		p.requireSame(t, name)
	}
	left, err := os.ReadDir(p.workDir)
	require.NoError(t, err)
	require.Empty(t, left)
	children, err := os.ReadDir(filepath.Join(p.upperDir, "dir"))
	require.NoError(t, err)
	require.Empty(t, children, "a directory comes up without what is in it")
}

func (p *place) requireSame(t *testing.T, name string) {
	t.Helper()
	var low, up unix.Stat_t
	require.NoError(t, at.Stat(p.lower, name, &low))
	require.NoError(t, at.Stat(p.upper, name, &up))
	require.Equal(t, low.Mode, up.Mode, "mode of %s", name)
	require.Equal(t, []uint32{low.Uid, low.Gid}, []uint32{up.Uid, up.Gid}, "owner of %s", name)
	require.Equal(t, low.Rdev, up.Rdev, "device of %s", name)
	require.Equal(t, low.Mtim, up.Mtim, "time of %s", name)
	switch low.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		want, err := os.ReadFile(filepath.Join(p.lowerDir, name))
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join(p.upperDir, name))
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got), "data of %s", name)
	case unix.S_IFLNK:
		target, err := os.Readlink(filepath.Join(p.upperDir, name))
		require.NoError(t, err)
		require.Equal(t, "some/where", target)
	}
	if name == "file" || name == "empty" {
		note, err := at.Getxattr(p.upper, name, "user.note")
		require.NoError(t, err)
		require.Equal(t, "kept", string(note))
		_, err = at.Getxattr(p.upper, name, "user.overlay.origin")
		require.ErrorIs(t, err, unix.ENODATA, "the union's own attributes are of their layer")
	}
}

// TestInstead: a regular file stands for a lower file of any kind, with the times of that.
// Whichever step fails, nothing is left.
func TestInstead(t *testing.T) {
	p := newPlace(t)
	p.kinds(t)
	for name, text := range map[string]string{"link": "some/where", "fifo": ""} {
		job := p.job(t, name)
		job.Instead, job.Stat.Mode, job.KeepOwner = []byte(text), unix.S_IFREG|0o600, true
		var steps []string
		job.before = func(step string) error { steps = append(steps, step); return nil }
		staged, err := Stage(job)
		require.NoError(t, err, name)
		require.False(t, staged.Checked(), "it was read by name")
		require.NoError(t, staged.Publish(p.upper, name))
		staged.Close()
		data, err := os.ReadFile(filepath.Join(p.upperDir, name))
		require.NoError(t, err)
		require.Equal(t, text, string(data))
		info, err := os.Lstat(filepath.Join(p.upperDir, name))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode())
		require.EqualValues(t, 2000, info.ModTime().Unix())
		require.NoError(t, at.RemoveAll(p.upper, name))
		require.Equal(t, text != "", slices.Contains(steps, "sync"), "data is durable before it has a name")
		for _, failing := range steps {
			job.before = func(step string) error {
				if step == failing {
					return unix.ENOSPC
				}
				return nil
			}
			if staged, err = Stage(job); err == nil {
				err = staged.Publish(p.upper, name)
			}
			require.ErrorIs(t, err, unix.ENOSPC)
			for _, dir := range []string{p.upperDir, p.workDir} {
				left, err := os.ReadDir(dir)
				require.NoError(t, err)
				require.Empty(t, left, "after %s of %s broke", failing, name)
			}
		}
	}
}

// TestChangedWhileCopied: a file that grows, shrinks or is written to while it is copied
// is not brought up, and nothing is left; one of a living machine is, as it may be.
func TestChangedWhileCopied(t *testing.T) {
	changes := map[string]func(path string) error{
		"grows":   func(path string) error { return os.Truncate(path, 1<<20) },
		"shrinks": func(path string) error { return os.Truncate(path, 1) },
		"written": func(path string) error { return os.WriteFile(path, []byte("new"), 0o644) },
	}
	for name, change := range changes {
		for _, live := range []bool{false, true} {
			p := newPlace(t)
			p.kinds(t)
			job := p.job(t, "file")
			job.Live = live
			job.before = func(step string) error {
				if step != "data" {
					return nil
				}
				return change(filepath.Join(p.lowerDir, "file"))
			}
			staged, err := Stage(job)
			if live {
				require.NoError(t, err, name)
				staged.Discard()
				continue
			}
			require.ErrorIs(t, err, unix.ESTALE, name)
			left, err := os.ReadDir(p.workDir)
			require.NoError(t, err)
			require.Empty(t, left, name)
		}
	}
}

// TestEveryStepFails makes one step after the other fail. The upper must hold
// nothing, and the work directory too.
func TestEveryStepFails(t *testing.T) {
	p := newPlace(t)
	for _, name := range p.kinds(t) {
		steps := p.steps(t, name)
		require.Contains(t, steps, "publish")
		if name == "file" {
			require.Equal(t, []string{"make", "nameless", "data", "sync", "chown", "xattrs", "chmod", "times", "publish"}, steps)
		}
		for _, failing := range steps {
			broken := errors.New(failing + " broke")
			job := p.job(t, name)
			job.before = func(step string) error {
				if step == failing {
					return broken
				}
				return nil
			}
			staged, err := Stage(job)
			if err == nil {
				err = staged.Publish(p.upper, name)
			}
			require.ErrorIs(t, err, broken)
			require.ErrorContains(t, err, `copy up "`+name+`"`)
			for _, dir := range []string{p.upperDir, p.workDir} {
				left, err := os.ReadDir(dir)
				require.NoError(t, err)
				require.Empty(t, left, "after %s of %s broke", failing, name)
			}
		}
	}
}

// steps lists the steps of bringing name up, which it undoes.
func (p *place) steps(t *testing.T, name string) (steps []string) {
	t.Helper()
	job := p.job(t, name)
	job.before = func(step string) error { steps = append(steps, step); return nil }
	staged, err := Stage(job)
	require.NoError(t, err)
	require.NoError(t, staged.Publish(p.upper, name))
	require.NoError(t, at.RemoveAll(p.upper, name))
	return steps
}

func TestHolesStay(t *testing.T) {
	p := newPlace(t)
	const size = 8 << 20
	f, err := os.Create(filepath.Join(p.lowerDir, "sparse"))
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("middle"), 4<<20)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(size))
	require.NoError(t, f.Close())
	staged, err := Stage(p.job(t, "sparse"))
	require.NoError(t, err)
	require.NoError(t, staged.Publish(p.upper, "sparse"))
	p.requireSame(t, "sparse")
	var st unix.Stat_t
	require.NoError(t, at.Stat(p.upper, "sparse", &st))
	require.EqualValues(t, size, st.Size)
	require.Less(t, st.Blocks*512, int64(size/2), "the holes were filled")
}

// TestDataByReading: the last way to copy gives the same bytes.
func TestDataByReading(t *testing.T) {
	p := newPlace(t)
	want := bytes.Repeat([]byte("0123456789"), 300_000)
	require.NoError(t, os.WriteFile(filepath.Join(p.lowerDir, "big"), want, 0o600))
	in, err := at.Open(p.lower, "big", unix.O_RDONLY, 0)
	require.NoError(t, err)
	defer unix.Close(in)
	out, err := at.Open(p.upper, "big", unix.O_WRONLY|unix.O_CREAT, 0o600)
	require.NoError(t, err)
	defer unix.Close(out)
	c := copier{in: in, out: out, plain: true}
	require.NoError(t, c.extent(0, int64(len(want))))
	got, err := os.ReadFile(filepath.Join(p.upperDir, "big"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
	require.ErrorContains(t, c.extent(0, int64(len(want))+1), "1 bytes early")
}

func TestPublishReplacesNothing(t *testing.T) {
	p := newPlace(t)
	require.NoError(t, os.WriteFile(filepath.Join(p.lowerDir, "x"), []byte("lower"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(p.upperDir, "x"), []byte("upper"), 0o600))
	staged, err := Stage(p.job(t, "x"))
	require.NoError(t, err)
	require.ErrorIs(t, staged.Publish(p.upper, "x"), unix.EEXIST)
	data, err := os.ReadFile(filepath.Join(p.upperDir, "x"))
	require.NoError(t, err)
	require.Equal(t, "upper", string(data))
}

// TestWithoutNamelessFiles: on a file system that knows no files without a name, the
// same comes of it, by way of the work directory.
func TestWithoutNamelessFiles(t *testing.T) {
	p := newPlace(t)
	p.kinds(t)
	stage := func() *Staged {
		job := p.job(t, "file")
		job.before = func(step string) error {
			if step == "nameless" {
				return unix.EOPNOTSUPP
			}
			return nil
		}
		staged, err := Stage(job)
		require.NoError(t, err)
		require.FileExists(t, filepath.Join(p.workDir, "temp"))
		return staged
	}
	staged := stage()
	require.NoError(t, staged.Link(p.upper, "second"))
	require.NoError(t, staged.Publish(p.upper, "file"))
	staged.Close()
	p.requireSame(t, "file")
	staged = stage()
	require.ErrorIs(t, staged.Link(p.upper, "second"), unix.EEXIST)
	require.ErrorIs(t, staged.Publish(p.upper, "file"), unix.EEXIST)
	fd, err := stage().Nameless()
	require.NoError(t, err)
	require.NoError(t, unix.Close(fd))
	left, err := os.ReadDir(p.workDir)
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestCheckedBeforeItIsCopied: of another file than the one that was meant, nothing is.
func TestCheckedBeforeItIsCopied(t *testing.T) {
	p := newPlace(t)
	p.kinds(t)
	job := p.job(t, "file")
	var opened unix.Stat_t
	job.Same = func(st *unix.Stat_t) error { opened = *st; return unix.ESTALE }
	job.before = func(step string) error { require.NotEqual(t, "data", step); return nil }
	_, err := Stage(job)
	require.ErrorIs(t, err, unix.ESTALE)
	require.Equal(t, job.Stat.Ino, opened.Ino)
	for _, name := range []string{"file", "empty", "dir", "link"} {
		job := p.job(t, name)
		staged, err := Stage(job)
		require.NoError(t, err)
		require.Equal(t, name == "file", staged.Checked(), "only a file with data is open while it is copied")
		staged.Discard()
	}
}

func TestNamelessAndEmpty(t *testing.T) {
	p := newPlace(t)
	require.NoError(t, os.WriteFile(filepath.Join(p.lowerDir, "x"), []byte("lower"), 0o600))
	job := p.job(t, "x")
	job.Empty = true
	staged, err := Stage(job)
	require.NoError(t, err)
	fd, err := staged.Nameless()
	require.NoError(t, err)
	defer unix.Close(fd)
	var st unix.Stat_t
	require.NoError(t, at.Stat(fd, "", &st))
	require.Zero(t, st.Size)
	require.Zero(t, st.Nlink)
	left, err := os.ReadDir(p.workDir)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestInoIsNoted(t *testing.T) {
	p := newPlace(t)
	for _, name := range p.kinds(t) {
		require.Zero(t, Ino(p.lower, name))
		job := p.job(t, name)
		job.Ino = 1<<60 + 7
		staged, err := Stage(job)
		require.NoError(t, err)
		require.NoError(t, staged.Publish(p.upper, name))
		p.requireSame(t, name)
		if kind := job.Stat.Mode & unix.S_IFMT; os.Geteuid() == 0 || kind == unix.S_IFREG || kind == unix.S_IFDIR {
			require.Equal(t, job.Ino, Ino(p.upper, name), name)
		}
	}
}

// TestCopiedTellsTheWay: what came with data, and how; nothing else did.
func TestCopiedTellsTheWay(t *testing.T) {
	p := newPlace(t)
	for _, name := range p.kinds(t) {
		for _, empty := range []bool{false, true} {
			job := p.job(t, name)
			job.Empty = empty
			s, err := Stage(job)
			require.NoError(t, err)
			way, bytes := s.Copied()
			if name == "file" && !empty {
				require.Contains(t, []Way{Reflink, CopyFileRange, ReadWrite}, way)
				require.EqualValues(t, 250_000, bytes)
			} else {
				require.Equal(t, NoData, way, name)
				require.Zero(t, bytes)
			}
			s.Discard()
		}
	}
	from, to := filepath.Join(p.lowerDir, "to copy"), filepath.Join(p.lowerDir, "copy")
	require.NoError(t, os.WriteFile(from, []byte("data"), 0o600))
	in, err := os.Open(from)
	require.NoError(t, err)
	out, err := os.Create(to)
	require.NoError(t, err)
	defer func() { require.NoError(t, in.Close()); require.NoError(t, out.Close()) }()
	c := copier{in: int(in.Fd()), out: int(out.Fd()), plain: true}
	require.NoError(t, c.extent(0, 4))
	require.Equal(t, ReadWrite, c.way())
	c.plain = false
	require.Equal(t, CopyFileRange, c.way())
}
