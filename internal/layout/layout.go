package layout

import (
	_ "crypto/sha256" // or no digest is one
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
)

// The names in the root of a store that more than the database knows.
const (
	LayersName     = "layers"
	ChainsName     = "chains"
	ContainersName = "containers"
	TmpName        = "tmp"
	StageName      = "stage"
	// SingleName is there in a store that was begun with a single id, whose files keep their
	// owners in an attribute, and stand for links and devices. It stays one of that kind.
	SingleName = "single-id"
)

// Dir is the directory of a store. It may be copied and used by several goroutines.
type Dir struct {
	root string
	// hook is called at the named points of a change, never nil.
	hook func(point string)
}

// At is the store in the directory root, an absolute path. hook is called at the named
// points of a change: the tests of layerdb end the process there. nil is none.
func At(root string, hook func(point string)) Dir {
	if hook == nil {
		hook = func(string) {}
	}
	return Dir{root, hook}
}

// Root returns the absolute path of the store.
func (d Dir) Root() string { return d.root }

// Path is that of a file of the store, by the names that lead to it from its root.
func (d Dir) Path(names ...string) string {
	return filepath.Join(append([]string{d.root}, names...)...)
}

// LayerDir returns the directory of the layer with this diff ID, which holds
// diff/ and tar-split.gz.
func (d Dir) LayerDir(diffID digest.Digest) string { return d.Path(LayersName, diffID.Encoded()) }

// ContainerDir returns the directory of the container id, which holds upper/,
// work/, config.json and state.json.
func (d Dir) ContainerDir(id string) string { return d.Path(ContainersName, id) }

// DiffName is the directory of the files of a layer, in that of the layer.
const DiffName = "diff"

// DiffDir returns where the files of the layer in layerDir are.
func DiffDir(layerDir string) string { return filepath.Join(layerDir, DiffName) }

// OverrideAttr is the extended attribute that keeps what a host without root does
// not let a file be: "UID:GID:MODE" with the mode in octal, and for the regular
// file in the place of a device ":char-MAJOR-MINOR" or ":block-MAJOR-MINOR"
// behind, in that of a link, FIFO or socket ":symlink", ":pipe" or ":socket". The
// form is that of containers/storage and of fuse-overlayfs' xattr_permissions=2.
const OverrideAttr = "user.containers.override_stat"

// StageDir returns the directory for the programs that containers begin with. It need not
// be there, and what is in it can be made again.
func (d Dir) StageDir() string { return d.Path(StageName) }

// ChainSuffix ends the names of the indexes in chains/.
const ChainSuffix = ".idx"

// ChainFile returns where the index of the chain with this chain ID is kept. No
// record speaks of it: it may be absent at any time, and is made from the layers
// again. What is in it is not known here.
func (d Dir) ChainFile(chainID digest.Digest) string {
	return d.Path(ChainsName, chainID.Encoded()+ChainSuffix)
}

// ChainID returns the chain ID of a layer diffID over the chain parent, which is
// "" for the lowest layer (OCI image-spec config.md, "Layer ChainID").
func ChainID(parent, diffID digest.Digest) digest.Digest {
	if parent == "" {
		return diffID
	}
	return digest.FromString(parent.String() + " " + diffID.String())
}

// SyncDir makes the names in dir durable, or the content of a file.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}
