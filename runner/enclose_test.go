package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// enclose is the role of a courier: it shuts itself up in the view that it is told, and says
// what it can do there.
func enclose(canary string) error {
	var v View
	if err := json.Unmarshal([]byte(os.Getenv("RUNNER_TEST_CONFIG")), &v); err != nil {
		return err
	}
	if os.Getenv("RUNNER_TEST_THEN") == "enclosed" {
		return becomeEnclosed(v, canary)
	}
	if err := os.Setenv("RUNNER_TEST_THEN", "enclosed"); err != nil {
		return err
	}
	c, err := StartSelf(Self{Args: []string{"varve-test"}, PrivateMounts: true, Stdout: os.Stdout, Stderr: os.Stderr})
	if err != nil {
		return err
	}
	_, err = c.Wait()
	return err
}

func becomeEnclosed(v View, canary string) error {
	if _, err := v.Enclose(); err != nil {
		return err
	}
	try := func(what string, err error) {
		if errno := unix.Errno(0); errors.As(err, &errno) {
			fmt.Println(what+":", unix.ErrnoName(errno))
		} else {
			fmt.Println(what+":", err)
		}
	}
	for _, name := range []string{canary, "/link", "/proc/self", "/dev/null"} {
		_, err := os.Stat(name)
		try("see "+strings.Replace(name, canary, "canary", 1), err)
	}
	for _, dir := range []string{"/", "/v/"} {
		_, err := os.ReadFile(dir + "file")
		try("read "+dir, err)
		f, err := os.Open(dir + "node")
		try("device "+dir, err)
		if err == nil {
			_ = f.Close() // only read
		}
		try("run "+dir, unix.Access(dir+"bin/true", unix.X_OK))
		try("write "+dir, os.WriteFile(dir+"new", nil, 0o600))
		var st unix.Statfs_t
		err = unix.Statfs(dir, &st)
		fmt.Println("nosuid "+dir+":", st.Flags&unix.ST_NOSUID != 0, err)
	}
	return nil
}

// The courier of cp sees the files of the container and nothing of the host, and there is
// nothing that it could run, or be given rights or a device by (CVE-2018-15664, CVE-2019-14271).
func TestEnclose(t *testing.T) {
	needRoot(t)
	bird, root, volume := newCanary(t), busyboxRoot(t), t.TempDir()
	fillBusyboxRoot(t, volume)
	canary := filepath.Join(bird.dir, "file")
	require.NoError(t, os.Symlink(canary, filepath.Join(root, "link")))
	device := "EACCES"
	for _, dir := range []string{root, volume} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600))
		if inUserns(t) {
			device = "ENOENT" // there no node can be made
		} else {
			require.NoError(t, unix.Mknod(filepath.Join(dir, "node"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		}
	}
	for _, c := range []struct {
		view                View
		writeRoot, writeVol string
	}{
		{View{}, "<nil>", "<nil>"},
		{View{ReadOnlyRoot: true}, "EROFS", "<nil>"},
		{View{ReadOnly: true}, "EROFS", "EROFS"},
	} {
		c.view.Root, c.view.Mounts = root, []Mount{{Source: volume, Target: "/v"}}
		data, err := json.Marshal(c.view)
		require.NoError(t, err)
		text, said, code := play(t, os.Geteuid(), "enclose", nil, "RUNNER_TEST_THEN=", "RUNNER_TEST_CONFIG="+string(data), "RUNNER_TEST_CANARY="+canary)
		require.Zero(t, code, said)
		require.Equal(t, "see canary: ENOENT\nsee /link: ENOENT\nsee /proc/self: ENOENT\nsee /dev/null: ENOENT\n"+
			"read /: <nil>\ndevice /: "+device+"\nrun /: EACCES\nwrite /: "+c.writeRoot+"\nnosuid /: true <nil>\n"+
			"read /v/: <nil>\ndevice /v/: "+device+"\nrun /v/: EACCES\nwrite /v/: "+c.writeVol+"\nnosuid /v/: true <nil>\n", text, said)
	}
	bird.requireAlive(t)
}
