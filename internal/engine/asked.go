package engine

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/varvefs/varve/internal/container"
)

// CheckEnv refuses an -e that docker refuses.
func CheckEnv(text string) error {
	if text == "" || text[0] == '=' {
		return fmt.Errorf("invalid environment variable: %s", text)
	}
	return nil
}

// CheckLabel refuses a -l that docker refuses.
func CheckLabel(text string) error {
	name, _, _ := strings.Cut(text, "=")
	if name == "" {
		return fmt.Errorf("invalid label '%s': empty name", text)
	}
	if strings.ContainsFunc(name, unicode.IsSpace) {
		return fmt.Errorf("label '%s' contains whitespaces", name)
	}
	return nil
}

// AskedEnv is what --env-file and -e ask for together: a NAME alone takes the caller's
// value, or is left out if the caller has none.
func AskedEnv(files, asked []string) ([]string, error) {
	var env []string
	for _, name := range files {
		lines, err := readNamed(name)
		if err != nil {
			return nil, err
		}
		env = append(env, lines...)
	}
	for _, text := range asked {
		if err := CheckEnv(text); err != nil {
			return nil, err
		}
	}
	return container.MergeEnv(callersEnv(slices.Concat(env, asked))), nil
}

// callersEnv looks the names without a value up.
func callersEnv(asked []string) (env []string) {
	for _, e := range asked {
		if !strings.Contains(e, "=") {
			value, ok := os.LookupEnv(e)
			if !ok {
				continue
			}
			e += "=" + value
		}
		env = append(env, e)
	}
	return env
}

// AskedLabels is what --label-file and -l ask for together. As in docker, a line of a
// file that has no "=" says nothing.
func AskedLabels(files, asked []string) ([]string, error) {
	var labels []string
	for _, name := range files {
		lines, err := readNamed(name)
		if err != nil {
			return nil, err
		}
		labels = append(labels, slices.DeleteFunc(lines, func(line string) bool { return !strings.Contains(line, "=") })...)
	}
	return append(labels, asked...), nil
}

// readNamed returns the lines NAME[=value] of a file that are neither empty nor
// comments, and refuses what docker refuses, in its words.
func readNamed(file string) ([]string, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var list []string
	for line := range strings.Lines(strings.TrimPrefix(string(raw), "\ufeff")) {
		line = strings.TrimLeftFunc(strings.TrimRight(line, "\r\n"), unicode.IsSpace)
		if line == "" || line[0] == '#' {
			continue
		}
		if err := checkNamed(line); err != nil {
			return nil, fmt.Errorf("invalid env file (%s): %w", file, err)
		}
		list = append(list, line)
	}
	return list, nil
}

func checkNamed(line string) error {
	name, _, _ := strings.Cut(line, "=")
	switch {
	case !utf8.ValidString(line):
		return fmt.Errorf("invalid utf8 bytes in the line %q", line)
	case name == "":
		return fmt.Errorf("no variable name on line '%s'", line)
	case strings.ContainsFunc(name, unicode.IsSpace):
		return fmt.Errorf("variable '%s' contains whitespaces", name)
	}
	return nil
}
