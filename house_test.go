package varve_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// module is the path of this module; a room is a directory below it.
const module = "github.com/varvefs/varve"

// rooms says which rooms a room may import, and what a room of one foreign
// thing has to itself. It is the picture of doc.go.
var rooms = map[string][]string{
	".":                       {},
	"cmd/varve":               {"internal/engine", "internal/container", "runner", "internal/hugeheap"},
	"cmd/varve-supervisor":    {"internal/container", "runner", "internal/hugeheap"},
	"cmd/varve-stage":         {"runner", "internal/hugeheap"},
	"internal/stage":          {"runner"},
	"internal/engine":         {"internal/container", "layerdb", "internal/layout", "unionfs", "runner", "internal/cgroup", "internal/archive", "internal/registry", "internal/stage", "whiteout", "internal/at"},
	"internal/container":      {"internal/layout", "unionfs", "runner", "internal/cgroup", "internal/stage", "whiteout", "internal/at"},
	"layerdb":                 {"internal/layout", "whiteout", "internal/at"},
	"internal/layout":         {"internal/at"},
	"unionfs":                 {"whiteout", "copyup", "internal/index", "internal/uring", "internal/at"},
	"copyup":                  {"whiteout", "internal/at"},
	"runner":                  {"internal/seccomp", "internal/at"},
	"internal/archive":        {"layerdb", "internal/layout", "whiteout", "copyup", "internal/at"},
	"internal/cgroup":         {},
	"internal/seccomp":        {},
	"internal/index":          {"whiteout", "internal/at"},
	"internal/registry":       {},
	"whiteout":                {"internal/at"},
	"internal/at":             {},
	"internal/uring":          {},
	"internal/hugeheap":       {},
	"internal/testenv":        {},
	"internal/testenv/failfs": {},
	"bench":                   {"unionfs", "internal/index"},
}

// strangers never import each other, not even in tests.
var strangers = []string{"unionfs", "layerdb", "runner"}

// foreign says in which rooms a module from outside may be imported.
var foreign = map[string][]string{
	"github.com/hanwen/go-fuse/":              {"unionfs", "bench", "internal/testenv/failfs"},
	"github.com/dgraph-io/badger/":            {"layerdb"},
	"github.com/spf13/cobra":                  {"cmd/varve"},
	"github.com/vbatts/tar-split/":            {"internal/archive"},
	"github.com/google/go-containerregistry/": {"internal/registry", "internal/testenv"},
	"github.com/therootcompany/xz":            {"internal/archive"},
	"github.com/stretchr/testify/":            {"internal/testenv", "internal/testenv/failfs"},
	"github.com/rogpeppe/go-internal":         {},
	"pgregory.net/rapid":                      {},
}

// calls says in which room an identifier of unix or syscall may be used.
var calls = map[string]string{
	"Openat": "internal/at", "Openat2": "internal/at", "Fstatat": "internal/at", "Mkdirat": "internal/at",
	"Mknodat": "internal/at", "Unlinkat": "internal/at", "Renameat": "internal/at", "Renameat2": "internal/at",
	"Linkat": "internal/at", "Symlinkat": "internal/at", "Readlinkat": "internal/at", "Fchownat": "internal/at",
	"Fchmodat": "internal/at", "Faccessat": "internal/at", "Faccessat2": "internal/at",
	"UtimesNanoAt": "internal/at", "Statx": "internal/at",
	"Unshare": "runner", "Setns": "runner", "Cloneflags": "runner", "Unshareflags": "runner",
	"UidMappings": "runner", "GidMappings": "runner", "UidMappingsEnableSetgroups": "runner",
}

// roomOfCall returns the only room in which the identifier may be used, "" if
// it is free.
func roomOfCall(name string) string {
	if strings.HasPrefix(name, "CLONE_") {
		return "runner"
	}
	return calls[name]
}

// TestHouse holds the code to the map.
func TestHouse(t *testing.T) {
	files := parseHouse(t, os.DirFS("."))
	require.NotEmpty(t, files)
	require.Empty(t, violations(files))
	require.Empty(t, undocumented(files))
	require.Empty(t, unexplained(files, read(t, "go.mod"), read(t, "docs/design.md")))
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(data)
}

// parseHouse reads every Go file of the tree.
func parseHouse(t *testing.T, tree fs.FS) []file {
	t.Helper()
	var files []file
	require.NoError(t, fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && skippedDir(d.Name()):
			return fs.SkipDir
		case filepath.Ext(path) != ".go":
			return nil
		}
		source, err := fs.ReadFile(tree, path)
		require.NoError(t, err)
		files = append(files, parse(t, path, string(source)))
		return nil
	}))
	return files
}

// skippedDir names directories that the go command skips, too.
func skippedDir(name string) bool {
	return name == "testdata" || name != "." && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_"))
}

func parse(t *testing.T, path, source string) file {
	t.Helper()
	tree, err := parser.ParseFile(token.NewFileSet(), path, source, parser.ParseComments)
	require.NoError(t, err)
	return file{path: path, room: filepath.Dir(path), test: strings.HasSuffix(path, "_test.go"), tree: tree}
}

// TestHouseIsHeld shows that each rule can fail: a sample breaks exactly one.
func TestHouseIsHeld(t *testing.T) {
	for name, c := range map[string]struct{ path, source, want string }{
		"wrong way":           {"whiteout/a.go", `import _ "` + module + `/unionfs"`, "whiteout must not import unionfs"},
		"strangers":           {"runner/a.go", `import _ "` + module + `/layerdb"`, "runner must not import layerdb"},
		"strangers in a test": {"layerdb/a_test.go", `import _ "` + module + `/unionfs"`, "layerdb must not import unionfs"},
		"unknown room":        {"internal/attic/a.go", ``, "internal/attic is not on the map"},
		"test helper in code": {"layerdb/a.go", `import _ "` + module + `/internal/testenv"`, "layerdb must not import internal/testenv"},
		"badger elsewhere":    {"internal/engine/a.go", `import _ "github.com/dgraph-io/badger/v4"`, "internal/engine must not import github.com/dgraph-io/badger/v4"},
		"badger in a test":    {"internal/engine/a_test.go", `import _ "github.com/dgraph-io/badger/v4"`, "internal/engine must not import github.com/dgraph-io/badger/v4"},
		"go-fuse elsewhere":   {"cmd/varve/a.go", `import _ "github.com/hanwen/go-fuse/v2/fuse"`, "cmd/varve must not import github.com/hanwen/go-fuse/v2/fuse"},
		"registry elsewhere":  {"internal/engine/a_test.go", `import _ "github.com/google/go-containerregistry/pkg/name"`, "internal/engine must not import github.com/google/go-containerregistry/pkg/name"},
		"testify in code":     {"layerdb/a.go", `import _ "github.com/stretchr/testify/require"`, "layerdb must not import github.com/stretchr/testify/require"},
		"raw call":            {"copyup/a.go", `import "golang.org/x/sys/unix"; var _ = unix.Openat`, "copyup must not use Openat: it belongs to internal/at"},
		"clone flag":          {"internal/engine/a.go", `import s "syscall"; var _ = s.SysProcAttr{Cloneflags: s.CLONE_NEWNS}`, "internal/engine must not use CLONE_NEWNS, Cloneflags: it belongs to runner"},
		"setns":               {"unionfs/a.go", `import "golang.org/x/sys/unix"; var _ = unix.Setns`, "unionfs must not use Setns: it belongs to runner"},
	} {
		t.Run(name, func(t *testing.T) {
			pkg := filepath.Base(filepath.Dir(c.path))
			got := violations([]file{parse(t, c.path, "package "+pkg+"\n"+c.source)})
			require.Equal(t, []string{c.path + ": " + c.want}, got)
		})
	}
}

// TestHouseAllows shows that the rules leave what is right alone.
func TestHouseAllows(t *testing.T) {
	for path, source := range map[string]string{
		"internal/at/a.go":    `import "golang.org/x/sys/unix"; var _ = unix.Openat`,
		"runner/a.go":         `import "golang.org/x/sys/unix"; var _ = unix.CLONE_NEWNS`,
		"unionfs/a.go":        `import "` + module + `/whiteout"; import "github.com/hanwen/go-fuse/v2/fuse"; var _, _ = whiteout.OCI, fuse.OK`,
		"layerdb/a_test.go":   `import "` + module + `/internal/testenv"; import "github.com/stretchr/testify/require"; var _, _ = testenv.Dir, require.Nil`,
		"copyup/b_test.go":    `import "golang.org/x/sys/unix"; var _ = unix.Fstatat`,
		"internal/at/b.go":    `type own struct{}; func (own) Setns() {}; var _ = own{}.Setns`,
		"internal/archive.go": ``,
	} {
		if path == "internal/archive.go" {
			path = "internal/archive/a.go"
		}
		pkg := filepath.Base(filepath.Dir(path))
		require.Empty(t, violations([]file{parse(t, path, "package "+pkg+"\n"+source)}), path)
	}
}

func TestEveryRoomHasItsSentence(t *testing.T) {
	code := parse(t, "copyup/a.go", "package copyup")
	require.Equal(t, []string{"copyup has no doc.go with a package comment"}, undocumented([]file{code}))
	mute := parse(t, "copyup/doc.go", "package copyup")
	require.Len(t, undocumented([]file{code, mute}), 1)
	wrong := parse(t, "copyup/doc.go", "// Copies up.\npackage copyup")
	require.Len(t, undocumented([]file{code, wrong}), 1)
	right := parse(t, "copyup/doc.go", "// Package copyup brings one file up.\npackage copyup")
	require.Empty(t, undocumented([]file{code, right}))
}

func TestEveryDependencyIsExplained(t *testing.T) {
	files := []file{parse(t, "layerdb/a.go", `package layerdb; import ("example.org/a/v2/x"; "example.org/b"; "fmt")`)}
	mod := "require (\n\texample.org/a/v2 v2.0.0\n\texample.org/b v1.0.0 // indirect\n\texample.org/c v1.0.0 // indirect\n)\n"
	require.Equal(t, []string{"docs/design.md does not say why example.org/b is needed"},
		unexplained(files, mod, "| `example.org/a/v2` | for x |\n"))
	require.Contains(t, unexplained(files, "", ""), "go.mod does not name the module of example.org/b")
	require.Equal(t, []string{"docs/design.md explains example.org/c, which nobody imports"},
		unexplained(files, mod, "| `example.org/a/v2` | for x |\n| `example.org/b` | for b |\n| `example.org/c` | for nothing |\n"))
}

// link finds the target of a Markdown link.
var link = regexp.MustCompile(`\]\(([^)]+)\)`)

// TestPagesPointAtWhatIsThere holds the links of the pages against the tree, so
// that the tour through the source leads somewhere.
func TestPagesPointAtWhatIsThere(t *testing.T) {
	require.Equal(t, []string{"b/c.md: no d.go"}, brokenLinks("b/c.md", "[x](../house_test.go) and [y](d.go)", os.DirFS(".")))
	pages, err := filepath.Glob("docs/*.md")
	require.NoError(t, err)
	require.NotEmpty(t, pages)
	for _, page := range append(pages, "README.md", "CHANGELOG.md") {
		require.Empty(t, brokenLinks(page, read(t, page), os.DirFS(".")))
	}
}

func brokenLinks(page, text string, tree fs.FS) []string {
	var list []string
	for _, m := range link.FindAllStringSubmatch(text, -1) {
		if strings.Contains(m[1], "://") {
			continue
		}
		if _, err := fs.Stat(tree, filepath.Join(filepath.Dir(page), m[1])); err != nil {
			list = append(list, page+": no "+m[1])
		}
	}
	return list
}
