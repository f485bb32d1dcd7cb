package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/term"
)

// output is where an archive goes: a file that is there whole or not at all, or
// stdout.
type output struct {
	*bufio.Writer
	file *os.File
	name string // the file's place in the end; "" for stdout or a device
}

// openOutput opens the file name, "" for stdout, which must not be a terminal. A
// regular file is written beside its place; a device or a pipe as it is.
func openOutput(name string) (*output, error) {
	if name == "" {
		if term.IsTerminal(int(os.Stdout.Fd())) {
			return nil, errors.New("cowardly refusing to write an archive to a terminal: use -o FILE, or redirect")
		}
		return &output{Writer: bufio.NewWriterSize(os.Stdout, 1<<16), file: os.Stdout}, nil
	}
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		if info.IsDir() {
			return nil, fmt.Errorf("%s is a directory: name a file", name)
		}
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		return &output{Writer: bufio.NewWriterSize(f, 1<<16), file: f}, nil
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-")
	if err != nil {
		return nil, err
	}
	return &output{bufio.NewWriterSize(f, 1<<16), f, name}, nil
}

// finish puts the file in its place, if all went well; else it is removed.
func (o *output) finish(err error) error {
	if err == nil {
		err = o.Flush()
	}
	if o.name == "" {
		return errors.Join(err, o.file.Close())
	}
	if err == nil {
		err = o.file.Chmod(0o600)
	}
	err = errors.Join(err, o.file.Close())
	if err == nil {
		err = os.Rename(o.file.Name(), o.name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(o.file.Name()))
	}
	return nil
}
