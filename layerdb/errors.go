package layerdb

import "errors"

// The ways a store says no. Errors of this package wrap them; the texts before
// and after name what was asked for.
var (
	// ErrOtherVersion: another version of varve made the store.
	ErrOtherVersion = errors.New("another version of varve made this store")
	// ErrOtherOwner: another user owns the store.
	ErrOtherOwner = errors.New("another user owns this store")
	// ErrNotStore: the directory has files in it that are not a store's.
	ErrNotStore = errors.New("not a varve store, and not empty")
	// ErrNoSpace: the file system of the store is too full to open the database.
	ErrNoSpace = errors.New("no space left for the store")
	// ErrBusy: another process held store.lock until the deadline.
	ErrBusy = errors.New("the store is busy")
	// ErrReadOnly: a change was asked of a store opened read-only.
	ErrReadOnly = errors.New("the store was opened read-only")
	// ErrNoSuchImage: docker's words, "No such image: X".
	//lint:ignore ST1005 docker's words
	ErrNoSuchImage = errors.New("No such image")
	// ErrNoSuchContainer: docker's words, "No such container: X".
	//lint:ignore ST1005 docker's words
	ErrNoSuchContainer = errors.New("No such container")
	// ErrNoSuchLayer: a layer that a record points to is not in the store.
	//lint:ignore ST1005 like the two above
	ErrNoSuchLayer = errors.New("No such layer")
	// ErrAmbiguous: several ids begin like this.
	ErrAmbiguous = errors.New("multiple IDs found with provided prefix")
	// ErrNameInUse: another container has the name. Docker's words again.
	//lint:ignore ST1005 docker's words
	ErrNameInUse = errors.New("Conflict. The container name")
	// ErrDamaged: the database cannot be read, or is older than the copies beside it.
	ErrDamaged = errors.New("the database is damaged")
	// ErrNoBytes: a record was put whose directory is not in the store.
	ErrNoBytes = errors.New("its directory is not in the store")
)
