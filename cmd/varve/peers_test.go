package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
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
	t.Run("varve", p.again)
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

// again loads what varve saved, with a file of zeros and one that was sparse in the
// tar: both have the same data, and holes.
func (p *peers) again(t *testing.T) {
	sparse := filepath.Join(t.TempDir(), "sparse.tar")
	p.command(t, "sh", "-c", `cd "$0" && truncate -s 16M holes && echo end >> holes && tar -Scf "$1" holes`, t.TempDir(), sparse)
	p.store(t, "first")
	p.varve(t, "import", sparse, "peers:sparse")
	file := filepath.Join(p.dir, "again.tar")
	p.varve(t, "save", "-o", file, "peers:1", "peers:sparse")
	p.store(t, "again")
	p.varve(t, "load", "-i", file)
	require.Equal(t, p.tree, p.varveTree(t, "peers:1"))
	require.Equal(t, "0 problems.\n", p.lastWords(t, "system", "check", "--deep"))
	found, err := filepath.Glob(filepath.Join(p.root, "layers", "*", "diff", "holes"))
	require.NoError(t, err)
	more, err := filepath.Glob(filepath.Join(p.root, "layers", "*", "diff", "data", "holes"))
	require.NoError(t, err)
	found = append(found, more...)
	require.Len(t, found, 2)
	for _, name := range found {
		var st unix.Stat_t
		require.NoError(t, unix.Stat(name, &st))
		require.Greater(t, st.Size, int64(8<<20))
		require.Less(t, st.Blocks*512, int64(1<<20), "%s has its zeros on the disk", name)
	}
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
	p.podmanImport(t)
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

// podmanImport has podman commit on top of what it imported, and compares all that
// both tell of each row.
func (p *peers) podmanImport(t *testing.T) {
	t.Helper()
	p.pod(t, "import", "-q", "-m", "the root", "-c", "ENV COLOUR=green", testenv.Busybox(t).Tar, "imported:1")
	id := p.pod(t, append(append([]string{"create", "--network=none"}, limits...), "imported:1", "/bin/true")...)
	p.command(t, "sh", "-c", `cd "$0" && rm etc/motd && mkdir made && echo 12345 > made/file && ln made/file made/link`, p.pod(t, "mount", id))
	p.pod(t, "unmount", id)
	p.pod(t, "commit", "-q", "-f", "docker", "-m", "by podman", "-c", "CMD [\"/bin/true\"]", id, "imported:2")
	p.pod(t, "rm", id)
	file := filepath.Join(p.dir, "imported.tar")
	p.pod(t, "save", "-q", "-m", "-o", file, "imported:1", "imported:2")
	p.store(t, "imported")
	p.varve(t, "load", "-i", file)
	var list []struct {
		ID, CreatedBy, Comment string
		Created                time.Time
		Size                   int64
	}
	require.NoError(t, json.Unmarshal([]byte(p.pod(t, "history", "--no-trunc", "--format", "json", "imported:2")), &list))
	layers := p.layersOf(t, file, "localhost/imported:2")
	require.Len(t, list, len(layers))
	var want strings.Builder
	for i, h := range list {
		// podman leaves "sha256:" away, and its size is that of the tar, with headers
		// and padding, where varve's and docker's is that of the files in it.
		layer := layers[len(layers)-1-i]
		require.Equal(t, int64(len(layer)), h.Size)
		fmt.Fprintf(&want, "sha256:%s|%s|%s|%d|%s\n", h.ID, h.Created.UTC().Format(time.RFC3339), h.CreatedBy, dataOf(t, layer), h.Comment)
	}
	row := "{{.ID}}|{{.CreatedAt}}|{{.CreatedBy}}|{{.Size}}|{{.Comment}}"
	require.Equal(t, want.String(), p.varve(t, "history", "--no-trunc", "-H=false", "--format", row, "localhost/imported:2"))
}

// layersOf are the layers of an image in an archive of docker's form, the lowest first.
func (p *peers) layersOf(t *testing.T, archive, image string) (layers [][]byte) {
	t.Helper()
	var manifest []struct{ RepoTags, Layers []string }
	require.NoError(t, json.Unmarshal([]byte(p.command(t, "tar", "-xOf", archive, "manifest.json")), &manifest))
	for _, m := range manifest {
		if !slices.Contains(m.RepoTags, image) {
			continue
		}
		dir := t.TempDir()
		p.command(t, "tar", append([]string{"-C", dir, "-xf", archive}, m.Layers...)...)
		for _, name := range m.Layers {
			raw, err := os.ReadFile(filepath.Join(dir, name))
			require.NoError(t, err)
			layers = append(layers, raw)
		}
	}
	return layers
}

// dataOf is how many bytes the regular files of a layer have.
func dataOf(t *testing.T, layer []byte) (size int64) {
	t.Helper()
	for _, h := range headersOf(t, layer) {
		size += h.Size
	}
	return size
}

func headersOf(t *testing.T, layer []byte) (list []*tar.Header) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(layer)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return list
		}
		require.NoError(t, err)
		list = append(list, h)
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
	p.dockerBuild(t, docker)
}

// dockerBuild has docker build an image, and save and load it, so that docker has it
// without its steps, as varve does: then each row of its history is the same here.
func (p *peers) dockerBuild(t *testing.T, docker func(args ...string) string) {
	t.Helper()
	t.Setenv("DOCKER_BUILDKIT", "0") // the other builder is a program of its own
	dir := t.TempDir()
	links := p.buildContext(t, dir)
	docker("build", "-q", "--network=none", "-t", "built:1", dir)
	file := filepath.Join(p.dir, "built.tar")
	docker("save", "-o", file, "built:1")
	docker("rmi", "-f", "built:1")
	docker("load", "-q", "-i", file)
	p.store(t, "built")
	p.varve(t, "load", "-i", file)
	require.Equal(t, "0 problems.\n", p.lastWords(t, "system", "check", "--deep"))
	rows := func(list string) [][]string {
		var rows [][]string
		for line := range strings.Lines(list) {
			rows = append(rows, strings.Split(strings.TrimSuffix(line, "\n"), "|"))
		}
		return rows
	}
	history := []string{"history", "--no-trunc", "-H=false", "--format", "{{.ID}}|{{.CreatedAt}}|{{.CreatedBy}}|{{.Size}}|{{.Comment}}", "built:1"}
	want, got := rows(docker(history...)), rows(p.varve(t, history...))
	require.Len(t, want, 9)
	// docker's overlay2 counts the targets of symbolic links as data. Only the root
	// has any. varve counts regular files, as docker does on other drivers.
	root := want[len(want)-1]
	bytes, err := strconv.Atoi(root[3])
	require.NoError(t, err)
	root[3] = strconv.Itoa(bytes - links)
	require.Equal(t, want, got)
	sizes := []string{"history", "--format", "{{.Size}}", "built:1"}
	require.Equal(t, rows(docker(sizes...))[:8], rows(p.varve(t, sizes...))[:8], "for people")
	config := []string{"inspect", "-f", "{{json .Config.Cmd}} {{json .Config.Env}} {{json .Config.Labels}} {{.Config.User}} {{.Config.WorkingDir}}", "built:1"}
	require.Equal(t, docker(config...)+"\n", p.varve(t, config...))
}

// buildContext writes what docker builds from, and tells how long the targets of the
// root's symbolic links are together.
func (p *peers) buildContext(t *testing.T, dir string) (links int) {
	t.Helper()
	raw, err := os.ReadFile(testenv.Busybox(t).Tar)
	require.NoError(t, err)
	for _, h := range headersOf(t, raw) {
		if h.Typeflag == tar.TypeSymlink {
			links += len(h.Linkname)
		}
	}
	for name, text := range map[string]string{"root.tar": string(raw), "file": "five\n", "Dockerfile": `FROM scratch
ADD root.tar /
COPY file /data/file
ENV A=b C="d  e"
LABEL key="a <value> & more"
WORKDIR /made
USER 5:6
USER 0
RUN rm /data/file && dd if=/dev/zero of=/big bs=1M count=3 && ln /big /made/link && echo "a	tab ü" > /made/tab && chown 9 /made
CMD ["/bin/sh", "-c", "cat /made/tab"]
`} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return links
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
			add(w, tar.Header{Typeflag: tar.TypeReg, Name: "data/holes", Mode: 0o644}, "begin"+strings.Repeat("\x00", 8<<20)+"end")
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
		blob := func(mediaType string, raw []byte) v1.Descriptor {
			d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
			if !known[d.Digest] {
				known[d.Digest] = true
				putFile(t, w, "blobs/sha256/"+d.Digest.Encoded(), raw)
			}
			return d
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
			manifest.Config = blob(v1.MediaTypeImageConfig, asJSON(t, config))
			d := blob(v1.MediaTypeImageManifest, asJSON(t, manifest))
			d.Annotations = map[string]string{v1.AnnotationRefName: "peers:" + name}
			index.Manifests = append(index.Manifests, d)
		}
		putFile(t, w, v1.ImageIndexFile, asJSON(t, index))
		putFile(t, w, v1.ImageLayoutFile, asJSON(t, v1.ImageLayout{Version: v1.ImageLayoutVersion}))
	})
	require.NoError(t, os.WriteFile(file, data, 0o600))
	return file
}
