package copyup

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/whiteout"
)

// metacopy brings up the metadata of name and opens it, and its data.
func (p *place) metacopy(t *testing.T, name string) Completion {
	t.Helper()
	job := p.job(t, name)
	job.Metadata, job.Ino = true, 77
	staged, err := Stage(job)
	require.NoError(t, err)
	require.True(t, staged.Metadata())
	way, size := staged.Copied()
	require.Equal(t, NoData, way)
	require.Zero(t, size)
	require.NoError(t, staged.Publish(p.upper, name))
	c := Completion{File: staged.Take()}
	c.Data, err = at.Open(p.lower, name, unix.O_RDONLY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, errors.Join(unix.Close(c.File), unix.Close(c.Data))) })
	return c
}

// requireMetadata checks that name in the upper has all but its data.
func (p *place) requireMetadata(t *testing.T, name string, times bool) {
	t.Helper()
	var low, up unix.Stat_t
	require.NoError(t, at.Stat(p.lower, name, &low))
	require.NoError(t, at.Stat(p.upper, name, &up))
	require.Equal(t, []any{low.Mode, low.Uid, low.Gid, low.Size}, []any{up.Mode, up.Uid, up.Gid, up.Size})
	if times {
		require.Equal(t, low.Mtim, up.Mtim)
	}
	note, err := at.Getxattr(p.upper, name, "user.note")
	require.NoError(t, err)
	require.Equal(t, "kept", string(note))
	marks, err := whiteout.ReadFileMarks(p.upper, name)
	require.NoError(t, err)
	require.Equal(t, whiteout.FileMarks{Metacopy: true}, marks)
	require.EqualValues(t, 77, Ino(p.upper, name))
}

// TestMetadataAlone: the copy has everything but the data, and takes no space for it.
func TestMetadataAlone(t *testing.T) {
	p := newPlace(t)
	p.kinds(t)
	p.metacopy(t, "file")
	p.requireMetadata(t, "file", true)
	var st unix.Stat_t
	require.NoError(t, at.Stat(p.upper, "file", &st))
	require.LessOrEqual(t, st.Blocks*512, int64(4096))
	job := p.job(t, "empty")
	job.Metadata = true
	staged, err := Stage(job)
	require.NoError(t, err)
	require.False(t, staged.Metadata(), "there is no data to leave")
	staged.Discard()
}

// TestEveryStepOfCompletionFails makes one step after the other fail. The file stays
// one without data, with its attributes, and can be completed after that.
func TestEveryStepOfCompletionFails(t *testing.T) {
	for _, empty := range []bool{false, true} {
		steps := []string{"data", "keep", "sync", "unmark"}
		if empty {
			steps = []string{"truncate", "unmark"}
		}
		for _, failing := range append(steps, "") {
			p := newPlace(t)
			p.kinds(t)
			caps := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
			c := p.metacopy(t, "file")
			if os.Geteuid() == 0 {
				require.NoError(t, unix.Fsetxattr(c.File, CapsAttr, caps, 0))
			}
			if empty {
				c.Data = -1
			}
			var done []string
			broken := errors.New(failing + " broke")
			c.before = func(step string) error {
				done = append(done, step)
				if step == failing {
					return broken
				}
				return nil
			}
			if failing != "" {
				require.ErrorIs(t, c.Run(), broken)
				if !empty {
					p.requireMetadata(t, "file", failing != "keep")
				}
				meta, err := whiteout.IsMetacopy(c.File)
				require.NoError(t, err)
				require.True(t, meta, "after %s broke", failing)
				c.before = nil
			}
			require.NoError(t, c.Run())
			if failing == "" {
				require.Equal(t, steps, done)
			}
			meta, err := whiteout.IsMetacopy(c.File)
			require.NoError(t, err)
			require.False(t, meta)
			if empty {
				data, err := os.ReadFile(filepath.Join(p.upperDir, "file"))
				require.NoError(t, err)
				require.Empty(t, data)
				continue
			}
			if failing == "keep" { // what could not be put back then is lost
				continue
			}
			p.requireSame(t, "file")
			way, size := c.Copied()
			require.NotEqual(t, NoData, way)
			require.EqualValues(t, 250_000, size)
			if os.Geteuid() == 0 {
				have, err := at.Getxattr(p.upper, "file", CapsAttr)
				require.NoError(t, err)
				require.Equal(t, caps, have)
			}
		}
	}
}

// TestCompletionChecksTheSize: the data of another file is none; and a file that was
// cut to nothing before a crash has none either.
func TestCompletionChecksTheSize(t *testing.T) {
	p := newPlace(t)
	p.kinds(t)
	c := p.metacopy(t, "file")
	require.NoError(t, os.WriteFile(filepath.Join(p.lowerDir, "file"), bytes.Repeat([]byte("x"), 9), 0o600))
	require.ErrorIs(t, c.Run(), unix.EIO)
	require.NoError(t, unix.Ftruncate(c.File, 0))
	require.NoError(t, c.Run())
	data, err := os.ReadFile(filepath.Join(p.upperDir, "file"))
	require.NoError(t, err)
	require.Empty(t, data)
}

// TestMetadataSteps: the mark comes with the file, before it is put in place.
func TestMetadataSteps(t *testing.T) {
	p := newPlace(t)
	p.kinds(t)
	var steps []string
	for _, failing := range []string{"mark", ""} {
		steps = nil
		job := p.job(t, "file")
		job.Metadata = true
		job.before = func(step string) error {
			steps = append(steps, step)
			if step == failing {
				return unix.EOPNOTSUPP
			}
			return nil
		}
		staged, err := Stage(job)
		require.NoError(t, err)
		require.Equal(t, failing == "", staged.Metadata(), "a file that can not be marked comes up whole")
		require.NoError(t, staged.Publish(p.upper, "file"))
		staged.Close()
		require.NoError(t, at.RemoveAll(p.upper, "file"))
	}
	require.Equal(t, []string{"make", "nameless", "mark", "chown", "xattrs", "chmod", "times", "publish"}, steps)
}
