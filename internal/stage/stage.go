package stage

import (
	_ "embed" // the program
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/runner"
)

// embedded is the SHA-256 of the program in hexadecimal, a line feed, and the program;
// or nothing.
//
//go:embed program
var embedded string

// supervisor is the same of cmd/varve-supervisor, which has the former in it; empty in
// that program itself.
//
//go:embed supervisor
var supervisor string

const sumSize = 64

// ErrNone is that this varve was built without the program.
var ErrNone = errors.New("built without a stage program")

// Open returns the program for runner.Config, so that whoever gets hold of it, as by
// /proc/1/exe in a container, can not write to it (CVE-2019-5736). It is the caller's to
// close. The program lies in dir, which is private to this user, made where it is
// missing, and for nothing else: so all containers share its pages, and none has to
// copy it. Where that can not be the program is in sealed memory. Open fails with
// ErrNone, and where memory can not be executed either.
func Open(dir string) (*os.File, error) {
	if len(embedded) <= sumSize {
		return nil, ErrNone
	}
	f, err := have(dir, embedded, open)
	if err == nil {
		return f, nil
	}
	return runner.Seal(strings.NewReader(embedded[sumSize+1:]))
}

// OpenSupervisor returns the program that serves one container, cmd/varve-supervisor, for
// runner.Self. It is the caller's to close. The program lies below dir as that of Open does.
// It fails with ErrNone where this varve has none in it, and is the supervisor itself.
func OpenSupervisor(dir string) (*os.File, error) {
	if len(supervisor) <= sumSize {
		return nil, ErrNone
	}
	return have(filepath.Join(dir, "supervisor"), supervisor, openWhole)
}

// have opens a program in dir, which is put there first if it is absent.
func have(dir, embedded string, open func(file string, size int) (*os.File, error)) (*os.File, error) {
	file, program := filepath.Join(dir, embedded[:sumSize]), embedded[sumSize+1:]
	f, err := open(file, len(program))
	if errors.Is(err, fs.ErrNotExist) {
		if err = put(file, program); err == nil {
			f, err = open(file, len(program))
		}
	}
	return f, err
}

// openWhole opens the file, if it is whole and can be executed.
func openWhole(file string, size int) (*os.File, error) {
	if err := unix.Access(file, unix.X_OK); err != nil {
		return nil, &fs.PathError{Op: "access", Path: file, Err: err}
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() != int64(size) {
		return nil, errors.Join(errNotIt, err, f.Close())
	}
	return f, nil
}

var errNotIt = errors.New("not the program")

// open shields the file, if it is whole.
func open(file string, size int) (*os.File, error) {
	f, err := runner.Shield(file)
	if err != nil {
		return nil, err
	}
	if info, err := os.Lstat(file); err != nil || !info.Mode().IsRegular() || info.Size() != int64(size) {
		return nil, errors.Join(errNotIt, err, f.Close())
	}
	return f, nil
}

// put makes the file, durably and whole or not at all, and removes those of other
// versions.
func put(file, program string) error {
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "new-")
	if err != nil {
		return err
	}
	_, err = f.WriteString(program)
	err = errors.Join(err, f.Chmod(0o555), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return removeOthers(dir, filepath.Base(file))
}

func removeOthers(dir, keep string) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		// What others are just writing begins with new- and is left to them.
		if e.Name() != keep && len(e.Name()) == sumSize {
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return err
}
