package layerdb

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/layout"
)

// The test binary runs itself again as another varve process: VARVE_TEST_DO says
// what it does to the store VARVE_TEST_STORE, VARVE_TEST_KILL at which point it
// is killed.
func TestMain(m *testing.M) {
	if do := os.Getenv("VARVE_TEST_DO"); do != "" {
		if err := other(do); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func other(do string) error {
	// The hook must be there before the store is made.
	s := newStore(os.Getenv("VARVE_TEST_STORE"), Options{LockTimeout: time.Minute})
	s.hook = func(point string) {
		if point == os.Getenv("VARVE_TEST_KILL") {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL) // cannot fail, and nobody is left to tell
			select {}
		}
	}
	if err := s.prepare(); err != nil {
		return err
	}
	verb, arg, _ := strings.Cut(do, " ")
	switch verb {
	case "open":
		return nil
	case "hold":
		return s.Update(func(*Tx) error {
			fmt.Println("held")
			_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // until the parent is done
			return nil
		})
	case "tags":
		return addTags(s, arg)
	case "change":
		return change(s)
	case "change-whole":
		return changeWhole(s)
	case "remove":
		return s.RemoveContainer("old")
	case "sweep":
		return s.Sweep()
	case "flip":
		return flip(s, arg)
	case "probe":
		return s.Probe()
	case "index":
		return keepChain(s, newLayer.ChainID, "second")
	}
	return errors.New("unknown " + verb)
}

// addTags tags the one image again and again, one transaction each, and counts
// in a record that all processes share.
func addTags(s *Store, who string) error {
	for i := range 10 {
		err := s.Update(func(tx *Tx) error {
			images, err := tx.Images()
			if err != nil {
				return err
			}
			raw, err := tx.get("counter")
			if err != nil {
				return err
			}
			n, _ := strconv.Atoi(string(raw)) // nil is 0
			return errors.Join(tx.set("counter", []byte(strconv.Itoa(n+1))),
				tx.SetTag(fmt.Sprintf("docker.io/library/p%s:%d", who, i), images[0].ID))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// change does in one transaction all that a change can do: it publishes a layer
// and a container, and forgets the ones that were there.
func change(s *Store) error {
	layer, err := s.Stage("layer")
	if err != nil {
		return err
	}
	box, err := s.Stage("container")
	if err != nil {
		return err
	}
	l := newLayer
	if err := os.WriteFile(filepath.Join(layer.Path(), "file"), []byte("new"), 0o600); err != nil {
		return err
	}
	err = s.Update(func(tx *Tx) error {
		old, err := tx.Images()
		if err != nil {
			return err
		}
		i := image(l, "new")
		err = errors.Join(tx.Publish(layer, s.LayerDir(l.DiffID)), tx.PutLayer(l), tx.PutImage(i),
			tx.Publish(box, s.ContainerDir("new")), tx.PutContainer(Container{ID: "new", Name: "n2", Top: l.ID}),
			tx.DeleteImage(old[0].ID), tx.DeleteContainer("old"))
		_, _, collectErr := tx.Collect()
		return errors.Join(err, collectErr)
	})
	if err != nil {
		return err
	}
	fmt.Println("acknowledged")
	return nil
}

// changeWhole adds an image whose layer has all that a layer has.
func changeWhole(s *Store) error {
	st, err := s.Stage("layer")
	if err != nil {
		return err
	}
	err = errors.Join(os.Mkdir(filepath.Join(st.Path(), "diff"), 0o700), os.WriteFile(filepath.Join(st.Path(), "tar-split.gz"), nil, 0o600))
	if err != nil {
		return err
	}
	return s.Update(func(tx *Tx) error {
		return errors.Join(tx.Publish(st, s.LayerDir(newLayer.DiffID)), tx.PutLayer(newLayer), tx.PutImage(image(newLayer, "new")))
	})
}

var newLayer = func() Layer {
	l := Layer{DiffID: digest.FromString("new"), Created: day}
	l.ChainID = l.DiffID
	if err := l.Seal(); err != nil {
		panic(err)
	}
	return l
}()

func process(t *testing.T, s string, do, kill string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "VARVE_TEST_DO="+do, "VARVE_TEST_STORE="+s, "VARVE_TEST_KILL="+kill)
	return cmd
}

func TestConcurrentProcessesLoseNoUpdate(t *testing.T) {
	s := openStore(t)
	require.NoError(t, s.Update(func(tx *Tx) error { return tx.PutImage(image(stageLayer(t, s, tx, nil, "l"), "i")) }))
	const crowd = 8
	var cmds []*exec.Cmd
	for i := range crowd {
		cmd := process(t, s.Root(), "tags "+strconv.Itoa(i), "")
		require.NoError(t, cmd.Start())
		cmds = append(cmds, cmd)
	}
	for i := range 20 { // readers among them see whole states
		require.NoError(t, s.View(func(tx *Tx) error {
			raw, err := tx.get("counter")
			require.NoError(t, err)
			n, _ := strconv.Atoi(string(raw)) // nil is 0
			tags, err := tx.Tags()
			require.NoError(t, err)
			require.Len(t, tags, n, "round %d", i)
			return nil
		}))
	}
	for _, cmd := range cmds {
		require.NoError(t, cmd.Wait())
	}
	require.NoError(t, s.View(func(tx *Tx) error {
		tags, err := tx.Tags()
		require.NoError(t, err)
		require.Len(t, tags, crowd*10)
		raw, err := tx.get("counter")
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa(crowd*10), string(raw))
		return nil
	}))
}

func TestBusyStoreNamesTheHolder(t *testing.T) {
	s := openStore(t)
	cmd := process(t, s.Root(), "hold", "")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "held\n", line)

	short, err := Open(s.Root(), Options{LockTimeout: 100 * time.Millisecond})
	require.NoError(t, err)
	for _, err := range []error{
		short.Update(func(*Tx) error { return nil }), short.View(func(*Tx) error { return nil }),
	} {
		require.ErrorIs(t, err, ErrBusy)
		require.ErrorContains(t, err, fmt.Sprintf("process %d (%s", cmd.Process.Pid, os.Args[0][:10]))
	}
	require.NoError(t, in.Close())
	require.NoError(t, cmd.Wait())
	require.NoError(t, short.Update(func(*Tx) error { return nil }))
}

// whole checks the law: every record has its bytes, every name its record.
func whole(t *testing.T, s *Store) (images, containers int) {
	t.Helper()
	require.NoError(t, s.View(func(tx *Tx) error {
		layers, err := tx.Layers()
		require.NoError(t, err)
		for _, l := range layers {
			require.DirExists(t, s.LayerDir(l.DiffID))
		}
		list, err := tx.Containers()
		require.NoError(t, err)
		for _, c := range list {
			_, err := tx.Chain(c.Top)
			require.NoError(t, err)
		}
		all, err := tx.Images()
		require.NoError(t, err)
		for _, i := range all {
			_, err := tx.Chain(i.Top)
			require.NoError(t, err)
		}
		images, containers = len(all), len(list)
		return nil
	}))
	return images, containers
}

// state tells whether the store is as before change or as after it.
func state(t *testing.T, s *Store) string {
	t.Helper()
	images, containers := whole(t, s)
	require.Equal(t, 1, images)
	require.Equal(t, 1, containers)
	which := ""
	require.NoError(t, s.View(func(tx *Tx) error {
		c, err := tx.Containers()
		require.NoError(t, err)
		which = c[0].ID
		i, err := tx.Images()
		require.NoError(t, err)
		require.Equal(t, which, string(i[0].Config), "image and container changed together")
		return nil
	}))
	return which
}

func TestKilledAtEveryPointOfAChange(t *testing.T) {
	for point, want := range map[string]string{
		"update: locked": "old", "update: opened": "old", "publish: renamed": "old", "update: changed": "old",
		"update: committed": "new", "update: closed": "new", "trash: before rename": "new", "update: unlocked": "new",
	} {
		t.Run(point, func(t *testing.T) {
			s := openStore(t)
			require.NoError(t, s.Update(func(tx *Tx) error {
				l := stageLayer(t, s, tx, nil, "old")
				require.NoError(t, tx.PutImage(image(l, "old")))
				return stageContainer(t, s, tx, Container{ID: "old", Name: "n", Top: l.ID})
			}))
			out, err := process(t, s.Root(), "change", point).CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, "it was killed: %s", out)
			require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal())
			require.Equal(t, want, state(t, s))
			require.NoError(t, s.Sweep())
			require.Equal(t, want, state(t, s))
			require.Empty(t, names(t, s.Path(layout.TmpName)), "nothing is left")
			require.Len(t, names(t, s.Path(layout.LayersName)), 1)
			require.Equal(t, []string{want}, names(t, s.Path(layout.ContainersName)))
			if want == "old" {
				out, err := process(t, s.Root(), "change", "").CombinedOutput()
				require.NoError(t, err, "%s", out)
				require.Equal(t, "new", state(t, s))
			}
		})
	}
}

func TestKilledWhileRemovingAContainer(t *testing.T) {
	for point, left := range map[string]int{"trash: before rename": 1, "remove container: renamed": 0} {
		t.Run(point, func(t *testing.T) {
			s := openStore(t)
			require.NoError(t, s.Update(func(tx *Tx) error {
				l := stageLayer(t, s, tx, nil, "old")
				return stageContainer(t, s, tx, Container{ID: "old", Name: "n", Top: l.ID})
			}))
			require.Error(t, process(t, s.Root(), "remove", point).Run())
			_, containers := whole(t, s)
			require.Equal(t, left, containers)
			require.NoError(t, s.Sweep())
			require.Empty(t, names(t, s.Path(layout.TmpName)))
			require.Len(t, names(t, s.Path(layout.ContainersName)), left)
		})
	}
}

func TestKilledWhileMakingTheStore(t *testing.T) {
	for _, point := range []string{"create: directories", "create: database"} {
		t.Run(point, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "store")
			require.Error(t, process(t, root, "open", point).Run())
			s, err := Open(root, Options{})
			require.NoError(t, err)
			whole(t, s)
		})
	}
}

func TestManyProcessesMakeOneStore(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	var cmds []*exec.Cmd
	for range 8 {
		cmd := process(t, root, "open", "")
		require.NoError(t, cmd.Start())
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		require.NoError(t, cmd.Wait())
	}
	s, err := Open(root, Options{})
	require.NoError(t, err)
	whole(t, s)
}

func TestSweepLeavesWhatIsAlive(t *testing.T) {
	s := openStore(t)
	alive, err := s.Stage("alive")
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(s.Path(layout.TmpName, "dead"), 0o700))
	require.NoError(t, os.WriteFile(s.Path(layout.TmpName, "file"), nil, 0o600))
	require.NoError(t, os.MkdirAll(s.Path(layout.LayersName, "0123", "diff"), 0o700))
	require.NoError(t, os.MkdirAll(s.Path(layout.ContainersName, "0123", "upper"), 0o700))
	require.NoError(t, s.Sweep())
	require.Equal(t, []string{filepath.Base(alive.Path())}, names(t, s.Path(layout.TmpName)))
	require.Empty(t, names(t, s.Path(layout.LayersName)))
	require.Empty(t, names(t, s.Path(layout.ContainersName)))
	require.NoError(t, alive.Discard())
	require.NoError(t, alive.Discard(), "twice is allowed")
	require.Empty(t, names(t, s.Path(layout.TmpName)))
}

func TestTornLogIsReadAgain(t *testing.T) {
	s := openStore(t)
	require.NoError(t, s.Update(func(tx *Tx) error { return tx.PutImage(image(stageLayer(t, s, tx, nil, "l"), "old")) }))
	require.Error(t, process(t, s.Root(), "change", "update: changed").Run())
	for _, name := range names(t, s.Path(dbName)) {
		if strings.HasSuffix(name, ".mem") { // as a power failure in the middle of a write leaves it
			require.NoError(t, os.Truncate(s.Path(dbName, name), 25))
		}
	}
	images, _ := whole(t, s)
	require.Equal(t, 1, images)
}
