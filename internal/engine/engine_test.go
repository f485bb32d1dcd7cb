package engine

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/container"
	"github.com/varvefs/varve/layerdb"
	"github.com/varvefs/varve/runner"
)

func TestParseVolume(t *testing.T) {
	for text, want := range map[string]runner.Mount{
		"/a:/b":          {Source: "/a", Target: "/b"},
		"/a/../c:/b/:ro": {Source: "/c", Target: "/b", ReadOnly: true},
		"/a:/b:rw":       {Source: "/a", Target: "/b"},
		"/a:/b:ro,z":     {Source: "/a", Target: "/b", ReadOnly: true},
	} {
		got, err := parseVolume(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for bad, says := range map[string]string{ // docker's words
		"": "invalid empty volume spec", "/a": "invalid volume specification: '/a'", "a:/b": "invalid volume specification: 'a:/b'",
		"/a:b": "invalid volume specification: '/a:b': invalid mount config for type \"bind\": invalid mount path: 'b' mount path must be absolute",
		"/a:/": "invalid specification: destination can't be '/'", "/a:/..": "destination can't be '/'", "/a:/b:x": "invalid mode: x",
		"/a:/b:ro:z": "invalid volume specification: '/a:/b:ro:z': too many colons", ":/b": "empty section between colons", "/a:": "invalid spec: /a:: empty section between colons",
		"/a:/b:rw,ro": "invalid mode: rw,ro",
	} {
		_, err := parseVolume(bad)
		require.ErrorContains(t, err, says, bad)
	}
}

func TestVolumeSourcesAreMade(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a/b")
	mounts, err := parseVolumes([]string{dir + ":/x"})
	require.NoError(t, err)
	require.Len(t, mounts, 1)
	require.DirExists(t, dir)
	mounts, err = parseVolumes([]string{dir + ":/x", "/tmp:/x/"})
	require.NoError(t, err)
	require.EqualError(t, checkTargets(mounts, nil), "duplicate mount point: /x")
	require.EqualError(t, checkTargets(mounts[:1], []runner.Tmpfs{{Target: "/x"}}), "duplicate mount point: /x")
	require.NoError(t, checkTargets(mounts[:1], []runner.Tmpfs{{Target: "/y"}}))
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"": true, "ab": true, "a.b_c-d": true, "9x": true,
		"a": false, "-a": false, "a b": false, "a/b": false, "../x": false, "ä1": false, "a\n": false,
	} {
		require.Equal(t, ok, checkName(name) == nil, "%q", name)
	}
}

func TestInventedNamesAreNames(t *testing.T) {
	for range 100 {
		require.NoError(t, checkName(inventName()))
	}
}

func TestApplyChanges(t *testing.T) {
	config := container.Config{ImageConfig: v1.ImageConfig{Env: []string{"A=1"}, WorkingDir: "/srv"}}
	require.NoError(t, applyChanges(&config, []string{
		`CMD ["a", "b"]`, `entrypoint run it`, `ENV A=2`, `ENV B some words`, `ENV C="quoted words"`, `LABEL k=v`,
		`WORKDIR sub`, `USER 5:6`, `EXPOSE 80/tcp`, `VOLUME /data`, `STOPSIGNAL SIGINT`,
	}))
	require.Equal(t, container.Config{ImageConfig: v1.ImageConfig{
		Cmd: []string{"a", "b"}, Entrypoint: []string{"/bin/sh", "-c", "run it"},
		Env:    []string{"A=2", "B=some words", "C=quoted words"},
		Labels: map[string]string{"k": "v"}, WorkingDir: "/srv/sub", User: "5:6",
		ExposedPorts: map[string]struct{}{"80/tcp": {}}, Volumes: map[string]struct{}{"/data": {}}, StopSignal: "SIGINT",
	}}, config)
}

// TestApplyChangesLikeDocker holds single instructions against what docker commit
// makes of them.
func TestApplyChangesLikeDocker(t *testing.T) {
	for change, want := range map[string]string{
		`ENV A=1 B="two words" C=a\ b D='$A' E="$A-${A}"`: `{"Env":["A=1","B=two words","C=a b","D=$A","E=0-0"]}`,
		`ENV A $A and more`:          `{"Env":["A=0 and more"]}`,
		`LABEL a=1 "b c"="d e" f=`:   `{"Labels":{"a":"1","b c":"d e","f":""}}`,
		`EXPOSE 80 53/udp 8000-8002`: `{"ExposedPorts":{"53/udp":{},"80/tcp":{},"8000/tcp":{},"8001/tcp":{},"8002/tcp":{}}}`,
		`VOLUME ["/a", "/b c"]`:      `{"Volumes":{"/a":{},"/b c":{}}}`,
		`VOLUME /a "/b c"`:           `{"Volumes":{"/a":{},"/b c":{}}}`,
		`ENTRYPOINT ["x"]`:           `{"Entrypoint":["x"],"Cmd":null}`,
		`CMD echo $A`:                `{"Cmd":["/bin/sh","-c","echo $A"]}`,
		`STOPSIGNAL 9`:               `{"StopSignal":"9"}`,
		`STOPSIGNAL sigterm`:         `{"StopSignal":"sigterm"}`,
		`ONBUILD RUN make`:           `{"OnBuild":["RUN make"]}`,
		`HEALTHCHECK NONE`:           `{"Healthcheck":{"Test":["NONE"]}}`,
		`HEALTHCHECK CMD curl -f x`:  `{"Healthcheck":{"Test":["CMD-SHELL","curl -f x"]}}`,
		`HEALTHCHECK --interval=5s --retries=2 CMD ["curl", "-f x"]`: `{"Healthcheck":{"Test":["CMD","curl","-f x"],"Interval":5000000000,"Retries":2}}`,
	} {
		before := func() container.Config {
			return container.Config{ImageConfig: v1.ImageConfig{Env: []string{"A=0"}, Cmd: []string{"old"}}}
		}
		wanted, got := before(), before()
		require.NoError(t, json.Unmarshal([]byte(want), &wanted))
		require.NoError(t, applyChanges(&got, []string{change}), change)
		require.Equal(t, wanted, got, change)
	}
	for _, bad := range []string{
		"", "CMD", "RUN x", "FROM y", "ENV", "ENV A=1 B", "ENV =x", `ENV A="x`, "ENV A=${x", "ENV A=${x:-y}", "EXPOSE 0", "EXPOSE 70000",
		"EXPOSE 9-8", "EXPOSE 80/x", "EXPOSE x", `VOLUME [""]`, "STOPSIGNAL SIGNONE", "STOPSIGNAL 99", "ONBUILD ONBUILD RUN x",
		"ONBUILD from x", "HEALTHCHECK NONE x", "HEALTHCHECK CMD", "HEALTHCHECK RUN x", "HEALTHCHECK --interval=5 CMD x",
		"HEALTHCHECK --retries=x CMD x", "HEALTHCHECK --other=1s CMD x",
	} {
		require.Error(t, applyChanges(&container.Config{}, []string{bad}), bad)
	}
}

// TestDockersConfigSurvives: what OCI has no word for is kept from one image to the
// next.
func TestDockersConfigSurvives(t *testing.T) {
	raw := `{"architecture":"amd64","os":"linux","variant":"v2","config":{"Cmd":["x"],"Healthcheck":{"Test":["CMD","y"],"Timeout":7},` +
		`"OnBuild":["RUN z"],"Shell":["/bin/bash","-c"]},"rootfs":{"type":"layers","diff_ids":null}}`
	config, err := parseConfig(layerdb.Image{Config: []byte(raw)})
	require.NoError(t, err)
	back, err := json.Marshal(config)
	require.NoError(t, err)
	require.JSONEq(t, raw, string(back))
	require.NoError(t, applyChanges(&config.Config, []string{"CMD x y"}))
	require.Equal(t, []string{"/bin/bash", "-c", "x y"}, config.Config.Cmd)
}

func TestHostImageIsTheSameAlways(t *testing.T) {
	l1, i1, err := hostImage()
	require.NoError(t, err)
	l2, i2, err := hostImage()
	require.NoError(t, err)
	require.Equal(t, l1, l2)
	require.Equal(t, i1, i2)
	require.True(t, isHost("host"))
	require.True(t, isHost("docker.io/library/host:latest"))
	require.False(t, isHost("host:1"))
	require.False(t, isHost("me/host"))
}

func TestHostLowerHasNoLoops(t *testing.T) {
	base := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(base, "real"), 0o700))
	require.NoError(t, os.Symlink("real", filepath.Join(base, "link")))
	e, err := Open(filepath.Join(base, "link/store"))
	require.NoError(t, err)
	l := e.HostLower()
	require.Equal(t, "/", l.Path)
	require.Subset(t, l.Cut, []string{"proc", "sys", "dev", (base + "/real/store")[1:], (base + "/link/store")[1:]})
}

func TestStateOfADeadSupervisor(t *testing.T) {
	e, err := Open(filepath.Join(t.TempDir(), "store"))
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(e.store.ContainerDir("c"), 0o700))
	s, err := e.ReadState("c")
	require.NoError(t, err)
	require.Equal(t, container.State{Status: container.Created}, s, "nobody has begun")

	start, err := runner.ProcessStartTime(os.Getpid())
	require.NoError(t, err)
	alive := container.State{Status: container.Running, Supervisor: container.Proc{Pid: os.Getpid(), Start: start}, Started: time.Now().UTC().Round(0)}
	require.NoError(t, e.WriteState("c", alive))
	s, err = e.ReadState("c")
	require.NoError(t, err)
	alive.Boot = container.BootID()
	require.Equal(t, alive, s)
	require.True(t, s.Busy())

	raw, err := json.Marshal(alive)
	require.NoError(t, err)
	earlier := strings.Replace(string(raw), alive.Boot, "another boot", 1)
	require.NoError(t, os.WriteFile(filepath.Join(e.store.ContainerDir("c"), container.StateName), []byte(earlier), 0o600))
	s, err = e.ReadState("c")
	require.NoError(t, err)
	require.Equal(t, container.Exited, s.Status, "the machine was started again since")
	require.False(t, s.Busy())

	other := alive
	other.Supervisor.Start++ // the number was given to another process
	require.NoError(t, e.WriteState("c", other))
	s, err = e.ReadState("c")
	require.NoError(t, err)
	require.Equal(t, container.Exited, s.Status)
	require.Equal(t, 137, s.ExitCode)
	require.False(t, s.Busy())
	require.NoError(t, s.Supervisor.Kill(), "and that process is not killed")

	require.NoError(t, os.WriteFile(filepath.Join(e.store.ContainerDir("c"), container.StateName), []byte("{torn"), 0o600))
	s, err = e.ReadState("c")
	require.NoError(t, err, "a power failure must not hide the other containers")
	require.Equal(t, container.State{Status: container.Exited, ExitCode: 137}, s)
}

func TestOverwriteNeedsNoNewFile(t *testing.T) {
	e, err := Open(filepath.Join(t.TempDir(), "store"))
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(e.store.ContainerDir("c"), 0o700))
	long := container.State{Status: container.Running, Error: strings.Repeat("long ", 50), Init: container.Proc{Pid: 1, Start: 2}}
	require.NoError(t, e.WriteState("c", long))
	require.NoError(t, container.Overwrite(filepath.Join(e.store.ContainerDir("c"), container.StateName), []byte(`{"status":"exited","exit_code":3}`)))
	s, err := e.ReadState("c")
	require.NoError(t, err)
	require.Equal(t, container.State{Status: container.Exited, ExitCode: 3}, s)
}

func TestConfigOfAChain(t *testing.T) {
	top := layerdb.Layer{DiffID: "sha256:top", Comment: "t"}
	empty := layerdb.Layer{Empty: true, CreatedBy: "ENV"}
	low := layerdb.Layer{DiffID: "sha256:low", Comment: "l"}
	config := configOf([]layerdb.Layer{top, empty, low})
	require.Equal(t, []digest.Digest{"sha256:low", "sha256:top"}, config.RootFS.DiffIDs)
	require.Len(t, config.History, 3)
	require.Equal(t, "l", config.History[0].Comment, "lowest first")
	require.True(t, config.History[1].EmptyLayer)
}

func TestDefaultRoot(t *testing.T) {
	t.Setenv("VARVE_ROOT", "/x")
	root, err := DefaultRoot()
	require.NoError(t, err)
	require.Equal(t, "/x", root)
}
