package archive

import (
	"archive/tar"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/layout"
	"github.com/varvefs/varve/whiteout"
)

// asOther is set in the process that TestAsOrdinaryUser starts.
const asOther = "VARVE_TEST_AS_OTHER"

// TestAsOrdinaryUser runs the tests that matter there as nobody.
func TestAsOrdinaryUser(t *testing.T) {
	requireRoot(t)
	home, err := os.MkdirTemp("", "archive-nobody-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(home)) })
	const nobody = 65534
	require.NoError(t, os.Chown(home, nobody, nobody))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-test.short", "-test.v",
		"-test.run=^(TestSquash|TestAttacks$|TestRoundTrip|TestPack|TestLaterEntryReplaces|TestLinks|TestPrivate|TestWriteTree|TestUnpackDeep)")
	cmd.Env = []string{asOther + "=1", "TMPDIR=" + home, "PATH=" + os.Getenv("PATH")}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: TestSquash")
	require.NotContains(t, string(out), "--- SKIP: TestSquash")
}

// requireSquash skips where owners can be given.
func requireSquash(t *testing.T) {
	t.Helper()
	if !newOwners().squash {
		require.Empty(t, os.Getenv(asOther))
		t.Skip("this process can give owners: TestAsOrdinaryUser runs it as another")
	}
}

// squashed is a layer with all that an ordinary user can not make.
func squashed(t *testing.T) []byte {
	t.Helper()
	su := file("bin/su", "#!")
	su.Mode, su.Gid = 0o4755, 42
	closed := dir("closed")
	closed.Mode, closed.Uid = 0, 7
	shared := dir("shared")
	shared.Mode, shared.Uid, shared.Gid = 0o3777, os.Geteuid(), os.Getegid()
	secret := file("closed/shadow", "hash")
	secret.Mode = 0o000
	mine := file("mine", "x")
	mine.Uid, mine.Gid = os.Geteuid(), os.Getegid()
	labelled := file("labelled", "x")
	labelled.Uid, labelled.Gid = os.Geteuid(), os.Getegid()
	labelled.PAXRecords = map[string]string{
		"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"SCHILY.xattr.trusted.x":           "y", "SCHILY.xattr.user.z": "z",
	}
	return build(t, dir("bin"), su, closed, secret, shared, mine, labelled, symlink("l", "bin/su"),
		node("null", tar.TypeChar, 1, 3), node("disk", tar.TypeBlock, 8, 1), node("pipe", tar.TypeFifo, 0, 0), file(".wh.gone", ""))
}

func TestSquashKeepsWhatItMayNotMake(t *testing.T) {
	requireSquash(t)
	data := squashed(t)
	dir, got := unpack(t, data)
	requireSameTar(t, dir, got, data)
	files := tree(t, dir+"/diff")
	for path, s := range files {
		require.EqualValues(t, os.Geteuid(), s.UID, path)
		require.Zero(t, s.Mode&(unix.S_ISUID|unix.S_ISGID), path)
		require.False(t, s.Mode&unix.S_IFMT == unix.S_IFCHR && s.Dev != 0, "%s is a device", path)
		require.NotEqualValues(t, unix.S_IFBLK, s.Mode&unix.S_IFMT, path)
	}
	for path, want := range map[string]string{
		"bin": "0:0:0755", "bin/su": "0:42:04755", "closed": "7:0:00", "closed/shadow": "0:0:00",
		"shared": fmt.Sprintf("%d:%d:03777", os.Geteuid(), os.Getegid()), "mine": "", "labelled": "",
		"null": "0:0:0600:char-1-3", "disk": "0:0:0600:block-8-1", "l": "0:0:0777:symlink", "pipe": "0:0:0600:pipe",
	} {
		if os.Geteuid() == 0 && (path == "bin" || path == "l" || path == "pipe") {
			want = "" // root of a user namespace: it is as it should be
		}
		require.Equal(t, want, files[path].Xattrs[layout.OverrideAttr], path)
	}
	require.EqualValues(t, unix.S_IFREG|0o600, files["null"].Mode)
	require.EqualValues(t, unix.S_IFDIR|0o700, files["closed"].Mode)
	require.EqualValues(t, unix.S_IFREG|0o600, files["closed/shadow"].Mode)
	require.EqualValues(t, unix.S_IFDIR|0o1777, files["shared"].Mode)
	require.Equal(t, map[string]string{"user.z": "z"}, files["labelled"].Xattrs)
	require.Equal(t, "hash", files["closed/shadow"].Data)
}

// TestSquashPacksTheTruth: a commit writes owners, modes and devices as they
// were meant.
func TestSquashPacksTheTruth(t *testing.T) {
	requireSquash(t)
	data := squashed(t)
	layer, _ := unpack(t, data)
	dir, _, packed := pack(t, layer+"/diff", PackOptions{})
	_, want := headers(t, data)
	_, got := headers(t, packed)
	require.Len(t, got, len(want))
	for name, h := range want {
		g := got[name]
		if h.Typeflag == tar.TypeDir {
			g = got[name+"/"]
		}
		if name == ".wh.gone" || strings.HasPrefix(name, "labelled") {
			continue // it loses what we may not set
		}
		require.NotNil(t, g, name)
		require.Equal(t, []any{h.Uid, h.Gid, h.Mode, h.Typeflag, h.Size, h.Devmajor, h.Devminor},
			[]any{g.Uid, g.Gid, g.Mode, g.Typeflag, g.Size, g.Devmajor, g.Devminor}, name)
		require.NotContains(t, g.PAXRecords, "SCHILY.xattr."+layout.OverrideAttr, name)
	}
	require.Equal(t, "0:42:04755", lstat(t, dir+"/diff/bin/su").Xattrs[layout.OverrideAttr])
}

func TestParseOverride(t *testing.T) {
	for value, want := range map[string]attrs{
		"0:42:04755":           {gid: 42, mode: 0o4755},
		"1:2:644":              {uid: 1, gid: 2, mode: 0o644},
		"1:2:0644:file":        {uid: 1, gid: 2, mode: 0o644},
		"1:2:0755:dir":         {uid: 1, gid: 2, mode: 0o755},
		"0:0:0666:char-1-3":    {mode: 0o666, standsFor: "char-1-3"},
		"1:2:0777:symlink":     {uid: 1, gid: 2, mode: 0o777, standsFor: "symlink"},
		"1:2:0640:pipe":        {uid: 1, gid: 2, mode: 0o640, standsFor: "pipe"},
		"1:2:0640:socket":      {uid: 1, gid: 2, mode: 0o640, standsFor: "socket"},
		"0:0:0666:block-259-0": {mode: 0o666, standsFor: "block-259-0"},
	} {
		var a attrs
		require.NoError(t, a.parseOverride(value), value)
		require.Equal(t, want, a, value)
	}
	for _, value := range []string{"", "1:2", "a:2:3", "1:2:9", "-1:2:3", "1:2:3:char-1", "1:2:3:char-x-y", "4294967296:0:0"} {
		require.Error(t, new(attrs).parseOverride(value), value)
	}
	kind, rdev, err := whiteout.StandIn("block-259-7")
	require.NoError(t, err)
	require.EqualValues(t, unix.S_IFBLK, kind)
	require.Equal(t, unix.Mkdev(259, 7), rdev)
}
