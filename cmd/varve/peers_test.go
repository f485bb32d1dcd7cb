package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/testenv"
)

// TestPeers sends an image with everything that a layer can hold from varve to
// podman, skopeo and umoci and back, and compares trees, configs and histories.
func TestPeers(t *testing.T) {
	testenv.FUSE(t)
	testenv.Root(t)
	for _, name := range []string{"podman", "skopeo", "umoci"} {
		testenv.Program(t, name, name)
	}
	testenv.CheckLeaks(t)
	p := &peers{dir: testenv.Dir(t), home: newHome(t, nil)}
	p.store(t, "first")
	p.varve(t, "load", "-i", p.original(t))
	require.Equal(t, "0 problems.\n", p.lastWords(t, "system", "check", "--deep"))
	p.tree = p.varveTree(t, "peers:1")
	require.Contains(t, p.tree, "f|data/new|")
	require.NotContains(t, p.tree, "|data/gone|")
	require.NotContains(t, p.tree, "|opaque/below|")
	p.saved = filepath.Join(p.dir, "saved.tar")
	p.varve(t, "save", "-o", p.saved, "peers:1", "peers:base")
	t.Run("podman", p.podman)
	t.Run("umoci", p.umoci)
	t.Run("docker", p.docker)
}

// peers is one machine with several engines.
type peers struct {
	*home
	dir   string
	tree  string // of peers:1, as varve sees it
	saved string // an archive of peers:1 and peers:base
}

// store goes on with an empty store.
func (p *peers) store(t *testing.T, name string) {
	t.Helper()
	h := *p.home
	h.root = filepath.Join(p.dir, name)
	p.home = &h
}

func (p *peers) varve(t *testing.T, args ...string) string {
	t.Helper()
	return p.ok(t, args...)
}

// lastWords is the end of what varve prints, after the last colon.
func (p *peers) lastWords(t *testing.T, args ...string) string {
	t.Helper()
	out := p.varve(t, args...)
	return out[strings.LastIndex(out, ": ")+2:]
}

func (p *peers) command(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s %v: %s", name, args, stderr.String())
	return strings.TrimSpace(string(out))
}

func (p *peers) pod(t *testing.T, args ...string) string {
	t.Helper()
	return p.command(t, "podman", append([]string{"--root", p.dir + "/pod", "--runroot", p.dir + "/podrun", "--tmpdir", p.dir + "/podtmp",
		"--storage-driver", "overlay", "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file"}, args...)...)
}

// list describes all that is in a tree, but for its root.
func (p *peers) list(t *testing.T, dir string) string {
	t.Helper()
	return p.command(t, "sh", "-c", `cd "$0" && {
		find . -mindepth 1 -type d -printf '%y|%P|%m|%U:%G|%T@\n'
		find . -mindepth 1 -type f -printf '%y|%P|%m|%U:%G|%T@|%s|%n\n'
		find . -mindepth 1 ! -type d ! -type f -printf '%y|%P|%m|%U:%G|%T@|%l|%n\n'
		find . -type b -o -type c | xargs -r stat -c '%n %t,%T'
		find . -type f -exec sha256sum {} +
		find . -mindepth 1 ! -type l -exec getfattr -h -d -m '^(user|security)' -e hex {} + 2>/dev/null | grep .
		find . -type f -links +1 -printf '%i %P\n' | sort | awk '{ if ($1 == was) print "same", last, $2; was = $1; last = $2 }'
	} | LC_ALL=C sort`, dir)
}

// varveTree is the tree of a container of the image.
func (p *peers) varveTree(t *testing.T, image string) string {
	t.Helper()
	name := fmt.Sprintf("box-%d", time.Now().UnixNano())
	p.varve(t, "run", "--name", name, image, "/bin/true")
	defer p.varve(t, "rm", name)
	flat := filepath.Join(t.TempDir(), "flat.tar")
	p.varve(t, "export", "-o", flat, name)
	dir := t.TempDir()
	p.command(t, "tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", dir, "-xpf", flat)
	return p.list(t, dir)
}

// meta is what has to survive every way: layers, config and history.
func (p *peers) meta(t *testing.T, image string) string {
	t.Helper()
	return p.varve(t, "inspect", "-f", "{{.ID}} {{json .RootFS.Layers}} {{json .Config}} {{.Created}} {{.Author}}", image) +
		p.varve(t, "history", "--no-trunc", "-H=false", "--format", "{{.CreatedAt}}|{{.CreatedBy}}|{{.Size}}|{{.Comment}}", image)
}

func (p *peers) podman(t *testing.T) {
	want := p.meta(t, "peers:1")
	rows := p.varve(t, "history", "--no-trunc", "--format", "{{.CreatedAt}}|{{.CreatedBy}}|{{.Comment}}", "peers:1")
	p.pod(t, "load", "-i", p.saved)
	t.Cleanup(func() { _ = exec.Command("umount", p.dir+"/pod/overlay").Run() }) // podman's, if it made one
	require.Equal(t, p.tree, p.podTree(t, "peers:1"), "podman sees what varve sees")
	require.Equal(t, strings.TrimSpace(rows), p.podHistory(t, "peers:1"))

	for _, format := range []string{"docker-archive", "oci-archive"} {
		file := filepath.Join(p.dir, format+".tar")
		p.pod(t, "save", "-q", "--format", format, "-o", file, "peers:1")
		p.store(t, format)
		require.Equal(t, "Loaded image: localhost/peers:1\n", p.varve(t, "load", "-i", file))
		require.Equal(t, want, p.meta(t, "localhost/peers:1"), format)
		require.Equal(t, p.tree, p.varveTree(t, "localhost/peers:1"), format)
	}
	p.podmanCommit(t)
}

func (p *peers) podTree(t *testing.T, image string) string {
	t.Helper()
	dir := p.pod(t, "image", "mount", image)
	defer p.pod(t, "image", "unmount", image)
	return p.list(t, dir)
}

func (p *peers) podHistory(t *testing.T, image string) string {
	t.Helper()
	var list []struct{ Created, CreatedBy, Comment string }
	require.NoError(t, json.Unmarshal([]byte(p.pod(t, "history", "--no-trunc", "--format", "json", image)), &list))
	var rows []string
	for _, h := range list {
		created, err := time.Parse(time.RFC3339Nano, h.Created)
		require.NoError(t, err)
		rows = append(rows, created.UTC().Format(time.RFC3339)+"|"+h.CreatedBy+"|"+h.Comment)
	}
	return strings.Join(rows, "\n")
}

// podmanCommit has podman change the image and commit it, and brings it here.
func (p *peers) podmanCommit(t *testing.T) {
	t.Helper()
	id := p.pod(t, append(append([]string{"create", "--network=none"}, limits...), "peers:1", "/bin/true")...)
	root := p.pod(t, "mount", id)
	p.command(t, "sh", "-c", `cd "$0" && rm top/empty && echo changed >> data/new && mkdir made && mknod made/null c 1 3 && ln data/new made/link &&
		rm -r opaque && mkdir opaque && echo again > opaque/again && setfattr -n user.later -v x made && chown 7:8 made && chmod 2755 made`, root)
	p.pod(t, "unmount", id)
	p.pod(t, "commit", "-q", "-f", "docker", "-m", "by podman", "-a", "Ada", "-c", "ENV COMMITTED=yes", id, "committed:1")
	p.pod(t, "rm", id)
	want := p.podTree(t, "committed:1") // podman keeps whole seconds of what it commits
	require.Contains(t, want, "f|opaque/again|")
	require.NotContains(t, want, "|top/empty|")
	for _, format := range []string{"docker-archive", "oci-archive"} {
		file := filepath.Join(p.dir, "committed-"+format+".tar")
		p.pod(t, "save", "-q", "--format", format, "-o", file, "committed:1")
		p.store(t, "committed-"+format)
		p.varve(t, "load", "-i", file)
		require.Equal(t, want, p.varveTree(t, "localhost/committed:1"), format)
		rows := p.varve(t, "history", "--no-trunc", "--format", "{{.CreatedAt}}|{{.CreatedBy}}|{{.Comment}}", "localhost/committed:1")
		require.Equal(t, p.podHistory(t, "committed:1"), strings.TrimSpace(rows), format)
	}
}

func (p *peers) umoci(t *testing.T) {
	p.store(t, "first")
	layout := filepath.Join(p.dir, "layout")
	p.command(t, "skopeo", "copy", "-q", "docker-archive:"+p.saved+":peers:1", "oci:"+layout+":one")
	require.Equal(t, p.tree, p.unpacked(t, layout+":one", "bundle"), "umoci sees what varve sees")

	// umoci changes it, and writes layers with gzip.
	root := filepath.Join(p.dir, "bundle", "rootfs")
	p.command(t, "sh", "-c", `cd "$0" && rm -r data/file links && echo umoci > data/umoci && chown 9:10 data/umoci`, root)
	p.command(t, "umoci", "repack", "--image", layout+":two", "--history.created_by", "umoci itself", filepath.Join(p.dir, "bundle"))
	want := p.unpacked(t, layout+":two", "again")
	file := filepath.Join(p.dir, "layout.tar")
	p.command(t, "skopeo", "copy", "-q", "oci:"+layout+":two", "oci-archive:"+file+":example.org/umoci:2")
	p.store(t, "umoci")
	require.Equal(t, "Loaded image: example.org/umoci:2\n", p.varve(t, "load", "-i", file))
	require.Equal(t, want, p.varveTree(t, "example.org/umoci:2"))
	require.Contains(t, p.varve(t, "history", "--no-trunc", "example.org/umoci:2"), "umoci itself")

	// The layout itself in a tar has both images, by tags that are no names.
	both := filepath.Join(p.dir, "both.tar")
	p.command(t, "tar", "-C", layout, "-cf", both, ".")
	out := p.varve(t, "load", "-i", both)
	require.Equal(t, 2, strings.Count(out, "Loaded image ID: sha256:"), out)
	require.Equal(t, "0 problems.\n", p.lastWords(t, "system", "check", "--deep"))
}

// docker has a dockerd of the test's own load what varve saved, and loads what that
// saves: the old form, with links from layers to each other, before version 25.
func (p *peers) docker(t *testing.T) {
	testenv.Program(t, "dockerd", "docker.io")
	testenv.Program(t, "docker", "docker.io")
	p.store(t, "first")
	want := p.meta(t, "peers:1")
	row := "{{.ID}}|{{.CreatedAt}}|{{.CreatedBy}}|{{.Size}}|{{.Comment}}"
	rows := p.varve(t, "history", "--no-trunc", "--format", row, "peers:1")
	// docker names only the images that it has built on each other itself.
	rows = strings.ReplaceAll(rows, strings.TrimSpace(p.varve(t, "inspect", "-f", "{{.ID}}", "peers:base")), "<missing>")
	docker := p.dockerd(t)
	docker("load", "-q", "-i", p.saved)
	require.Equal(t, strings.TrimSpace(rows), docker("history", "--no-trunc", "--format", row, "peers:1"))
	require.Equal(t, "[peers:1]", docker("inspect", "-f", "{{.RepoTags}}", "peers:1"))
	file := filepath.Join(p.dir, "docker.tar")
	docker("save", "-o", file, "peers:1", "peers:base")
	p.store(t, "docker")
	require.ElementsMatch(t, []string{"Loaded image: peers:1", "Loaded image: peers:base", ""}, strings.Split(p.varve(t, "load", "-i", file), "\n"))
	require.Equal(t, want, p.meta(t, "peers:1"))
	require.Equal(t, p.tree, p.varveTree(t, "peers:1"))
}

// dockerd starts a daemon without a network, until the test ends, and returns what
// runs a command of docker's on it.
func (p *peers) dockerd(t *testing.T) func(args ...string) string {
	t.Helper()
	dir := t.TempDir()
	socket := "unix://" + dir + "/sock"
	daemon := exec.Command("dockerd", "--data-root", dir+"/data", "--exec-root", dir+"/run", "-H", socket, "--pidfile", dir+"/pid",
		"--iptables=false", "--ip6tables=false", "--bridge=none")
	log, err := os.Create(dir + "/log")
	require.NoError(t, err)
	daemon.Stdout, daemon.Stderr = log, log
	require.NoError(t, daemon.Start())
	t.Cleanup(func() {
		_ = daemon.Process.Signal(unix.SIGTERM) // it may have ended
		_ = daemon.Wait()                       // by the signal
		_ = log.Close()
	})
	ready := func() bool { return exec.Command("docker", "-H", socket, "version").Run() == nil }
	for limit := time.Now().Add(20 * time.Second); !ready(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(limit) {
			text, _ := os.ReadFile(dir + "/log") // may be empty
			t.Skipf("dockerd does not start here: %.2000s", text)
		}
	}
	return func(args ...string) string {
		t.Helper()
		return p.command(t, "docker", append([]string{"-H", socket}, args...)...)
	}
}

func (p *peers) unpacked(t *testing.T, image, name string) string {
	t.Helper()
	bundle := filepath.Join(p.dir, name)
	p.command(t, "umoci", "unpack", "--image", image, bundle)
	return p.list(t, filepath.Join(bundle, "rootfs"))
}

// original writes an OCI layout of an image of three layers, with all that a layer
// can hold, and of one with the lowest of them only.
func (p *peers) original(t *testing.T) string {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	require.NoError(t, err)
	at := time.Unix(1_600_000_000, 123_456_789).UTC()
	add := func(w *tar.Writer, h tar.Header, data string) {
		h.ModTime, h.Format, h.Size = at, tar.FormatPAX, int64(len(data))
		require.NoError(t, w.WriteHeader(&h), h.Name)
		_, err := w.Write([]byte(data))
		require.NoError(t, err)
	}
	layers := [][]byte{
		tarWith(t, func(w *tar.Writer) {
			for _, name := range []string{"bin/", "data/", "dev/", "links/", "opaque/", "proc/", "sys/", "tmp/"} {
				add(w, tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, "")
			}
			add(w, tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, string(busybox))
			add(w, tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/true", Linkname: "busybox", Mode: 0o777}, "")
			add(w, tar.Header{Typeflag: tar.TypeReg, Name: "data/file", Mode: 0o4751, Uid: 33, Gid: 44}, "first")
			add(w, tar.Header{Typeflag: tar.TypeReg, Name: "data/gone", Mode: 0o644}, "gone")
			add(w, tar.Header{Typeflag: tar.TypeReg, Name: "data/Ünïcödé " + strings.Repeat("n", 150), Mode: 0o600}, "long")
			add(w, tar.Header{Typeflag: tar.TypeReg, Name: "data/attr", Mode: 0o644, PAXRecords: map[string]string{
				"SCHILY.xattr.user.colour":         "green",
				"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
			}}, "x")
			add(w, tar.Header{Typeflag: tar.TypeLink, Name: "links/hard", Linkname: "data/file", Mode: 0o4751, Uid: 33, Gid: 44}, "")
			add(w, tar.Header{Typeflag: tar.TypeSymlink, Name: "links/soft", Linkname: "/data/file", Mode: 0o777, Uid: 5, Gid: 6}, "")
			add(w, tar.Header{Typeflag: tar.TypeFifo, Name: "links/fifo", Mode: 0o620}, "")
			add(w, tar.Header{Typeflag: tar.TypeChar, Name: "links/null", Mode: 0o666, Devmajor: 1, Devminor: 3}, "")
			add(w, tar.Header{Typeflag: tar.TypeReg, Name: "opaque/below", Mode: 0o644}, "below")
		}),
		tarWith(t, func(w *tar.Writer) {
			add(w, tar.Header{Typeflag: tar.TypeDir, Name: "data/", Mode: 0o750, Uid: 1}, "")
			add(w, tar.Header{Typeflag: tar.TypeReg, Name: "data/.wh.gone"}, "")
			add(w, tar.Header{Typeflag: tar.TypeReg, Name: "data/new", Mode: 0o640, Uid: 70_000}, strings.Repeat("new ", 10_000))
			add(w, tar.Header{Typeflag: tar.TypeDir, Name: "opaque/", Mode: 0o1777}, "")
			add(w, tar.Header{Typeflag: tar.TypeReg, Name: "opaque/.wh..wh..opq"}, "")
			add(w, tar.Header{Typeflag: tar.TypeReg, Name: "opaque/above", Mode: 0o644}, "above")
		}),
		tarWith(t, func(w *tar.Writer) {
			add(w, tar.Header{Typeflag: tar.TypeDir, Name: "top/", Mode: 0o700, Uid: 2, Gid: 3}, "")
			add(w, tar.Header{Typeflag: tar.TypeReg, Name: "top/empty", Mode: 0o444}, "")
		}),
	}
	return p.layout(t, layers, at)
}

func tarWith(t *testing.T, fill func(*tar.Writer)) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	fill(w)
	require.NoError(t, w.Close())
	return b.Bytes()
}

// layout writes the archive.
func (p *peers) layout(t *testing.T, layers [][]byte, at time.Time) string {
	t.Helper()
	file := filepath.Join(p.dir, "original.tar")
	data := tarWith(t, func(w *tar.Writer) {
		known := map[digest.Digest]bool{}
		put := func(name string, raw []byte) {
			require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(raw))}))
			_, err := w.Write(raw)
			require.NoError(t, err)
		}
		blob := func(mediaType string, raw []byte) v1.Descriptor {
			d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
			if !known[d.Digest] {
				known[d.Digest] = true
				put("blobs/sha256/"+d.Digest.Encoded(), raw)
			}
			return d
		}
		asJSON := func(v any) []byte {
			raw, err := json.Marshal(v)
			require.NoError(t, err)
			return raw
		}
		index := v1.Index{}
		index.SchemaVersion = 2
		for name, count := range map[string]int{"base": 1, "1": 3} {
			config := v1.Image{Created: &at, Author: "Ada", Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, RootFS: v1.RootFS{Type: "layers"},
				Config: v1.ImageConfig{Env: []string{"PATH=/bin", "A=b c"}, Cmd: []string{"/bin/true"}, Labels: map[string]string{"k": "v"},
					ExposedPorts: map[string]struct{}{"80/tcp": {}}, Volumes: map[string]struct{}{"/data": {}}, WorkingDir: "/", StopSignal: "SIGINT"}}
			manifest := v1.Manifest{MediaType: v1.MediaTypeImageManifest}
			manifest.SchemaVersion = 2
			for i, layer := range layers[:count] {
				when := at.Add(time.Duration(i) * time.Hour)
				manifest.Layers = append(manifest.Layers, blob(v1.MediaTypeImageLayer, layer))
				config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(layer))
				config.History = append(config.History,
					v1.History{Created: &when, CreatedBy: fmt.Sprintf("COPY layer %d /", i), Comment: "buildkit.dockerfile.v0"},
					v1.History{Created: &when, CreatedBy: fmt.Sprintf("ENV STEP=%d", i), EmptyLayer: true})
			}
			manifest.Config = blob(v1.MediaTypeImageConfig, asJSON(config))
			d := blob(v1.MediaTypeImageManifest, asJSON(manifest))
			d.Annotations = map[string]string{v1.AnnotationRefName: "peers:" + name}
			index.Manifests = append(index.Manifests, d)
		}
		put(v1.ImageIndexFile, asJSON(index))
		put(v1.ImageLayoutFile, asJSON(v1.ImageLayout{Version: v1.ImageLayoutVersion}))
	})
	require.NoError(t, os.WriteFile(file, data, 0o600))
	return file
}
