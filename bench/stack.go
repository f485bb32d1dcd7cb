package bench

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	layers      = 8
	dirs        = 20  // directories in every layer
	filesOfDir  = 100 // files of a directory, spread over the layers
	smallFile   = 1 << 10
	copyUpFiles = 500 // files that wait to be copied up
)

// Stack is a set of lower directories and a place for uppers, below one base
// directory.
type Stack struct {
	Lowers []string // top first
	Mnt    string   // the mount point

	base string
	sum  string // of all lowers, when they were made
}

// NewStack makes the lower directories below base, an empty directory: eight
// layers that all have the same twenty directories, a hundred files of 1 KiB in
// each, and one directory of files for copy-up.
func NewStack(base string) (*Stack, error) {
	s := &Stack{base: base, Mnt: filepath.Join(base, "mnt")}
	if err := os.Mkdir(s.Mnt, 0o755); err != nil {
		return nil, err
	}
	for layer := range layers {
		lower := filepath.Join(base, fmt.Sprintf("lower%d", layer))
		s.Lowers = append(s.Lowers, lower)
		if err := fillLayer(lower, layer); err != nil {
			return nil, fmt.Errorf("make layer %d: %w", layer, err)
		}
	}
	sum, err := s.hash()
	s.sum = sum
	return s, err
}

func fillLayer(lower string, layer int) error {
	data := []byte(strings.Repeat("v", smallFile))
	for dir := range dirs {
		if err := os.MkdirAll(filepath.Join(lower, dirName(dir)), 0o755); err != nil {
			return err
		}
		for file := layer; file < filesOfDir; file += layers {
			if err := os.WriteFile(filepath.Join(lower, fileName(dir, file)), data, 0o644); err != nil {
				return err
			}
		}
	}
	if err := os.MkdirAll(filepath.Join(lower, "low"), 0o755); err != nil {
		return err
	}
	for file := layer; file < copyUpFiles; file += layers {
		if err := os.WriteFile(filepath.Join(lower, lowName(file)), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func dirName(dir int) string        { return fmt.Sprintf("d%02d", dir) }
func fileName(dir, file int) string { return fmt.Sprintf("d%02d/f%03d", dir, file) }
func lowName(file int) string       { return fmt.Sprintf("low/c%04d", file) }

// Upper makes a fresh upper and work directory and returns how to remove them.
func (s *Stack) Upper() (upper, work string, remove func() error, err error) {
	top, err := os.MkdirTemp(s.base, "upper-")
	if err != nil {
		return "", "", nil, err
	}
	upper, work = filepath.Join(top, "upper"), filepath.Join(top, "work")
	err = errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755))
	return upper, work, func() error { return os.RemoveAll(top) }, err
}

// Check hashes the lower layers again and fails when anything changed.
func (s *Stack) Check() error {
	now, err := s.hash()
	if err == nil && now != s.sum {
		err = errors.New("the lower layers are not what they were")
	}
	return err
}

// hash is over names, modes, times and contents of all lowers.
func (s *Stack) hash() (string, error) {
	h := sha256.New()
	for _, lower := range s.Lowers {
		err := filepath.WalkDir(lower, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(h, path, info.Mode(), info.ModTime().UnixNano())
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			_, err = io.Copy(h, f)
			return errors.Join(err, f.Close())
		})
		if err != nil {
			return "", fmt.Errorf("hash %s: %w", lower, err)
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}
