package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/container"
)

// applyChanges applies Dockerfile instructions (-c) to a configuration, as docker
// commit and docker import do: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL,
// ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR.
func applyChanges(config *container.Config, changes []string) error {
	c := changer{config: config}
	for _, change := range changes {
		if err := c.apply(change); err != nil {
			return fmt.Errorf("change %q: %w", change, err)
		}
	}
	return nil
}

// changer applies one instruction after another.
type changer struct {
	config *container.Config
	cmdSet bool // a CMD was among them
}

func (c *changer) apply(change string) error {
	word, rest, _ := strings.Cut(strings.TrimSpace(change), " ")
	rest = strings.TrimSpace(rest)
	if rest == "" {
		return errors.New("an instruction and its value are needed, as in 'CMD [\"sh\"]'")
	}
	switch strings.ToUpper(word) {
	case "CMD":
		c.config.Cmd, c.cmdSet = c.commandForm(rest), true
	case "ENTRYPOINT":
		c.config.Entrypoint = c.commandForm(rest)
		if !c.cmdSet { // the image's CMD was for its own entry point
			c.config.Cmd = nil
		}
	case "ENV":
		return c.env(rest)
	case "LABEL":
		return c.label(rest)
	case "EXPOSE":
		return c.expose(rest)
	case "VOLUME":
		return c.volume(rest)
	case "HEALTHCHECK":
		return c.healthcheck(rest)
	case "ONBUILD":
		return c.onBuild(rest)
	case "USER", "WORKDIR", "STOPSIGNAL":
		return c.single(strings.ToUpper(word), rest)
	default:
		return fmt.Errorf("%s is not a valid change command", word)
	}
	return nil
}

// single applies the instructions of one value.
func (c *changer) single(word, rest string) error {
	value, err := expand(rest, c.config.Env)
	if err != nil {
		return err
	}
	switch word {
	case "USER":
		c.config.User = value
	case "WORKDIR":
		c.config.WorkingDir = path.Join("/", c.config.WorkingDir, value)
		if path.IsAbs(value) {
			c.config.WorkingDir = path.Clean(value)
		}
	case "STOPSIGNAL":
		number, err := strconv.Atoi(value)
		if (err != nil || number < 1 || number > 64) && unix.SignalNum("SIG"+strings.TrimPrefix(strings.ToUpper(value), "SIG")) == 0 {
			return fmt.Errorf("invalid signal: %s", value)
		}
		c.config.StopSignal = value
	}
	return nil
}

// commandForm reads '["a", "b"]' as a list, anything else as a shell's line.
func (c *changer) commandForm(text string) []string {
	if list, ok := listForm(text); ok {
		return list
	}
	shell := c.config.Shell
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(append([]string{}, shell...), text)
}

func listForm(text string) (list []string, ok bool) {
	return list, strings.HasPrefix(text, "[") && json.Unmarshal([]byte(text), &list) == nil
}

func (c *changer) env(rest string) error {
	pairs, err := c.pairs(rest)
	for _, p := range pairs {
		c.config.Env = container.MergeEnv(c.config.Env, []string{p[0] + "=" + p[1]})
	}
	return err
}

func (c *changer) label(rest string) error {
	pairs, err := c.pairs(rest)
	for _, p := range pairs {
		c.config.Labels = withKey(c.config.Labels, p[0], p[1])
	}
	return err
}

// pairs reads both forms of ENV and LABEL: "A=b C=d", and "A all the rest".
func (c *changer) pairs(rest string) ([][2]string, error) {
	words := splitWords(rest)
	if !strings.Contains(words[0], "=") {
		key, value, _ := strings.Cut(rest, " ")
		words = []string{key + "=" + strings.TrimSpace(value)}
	}
	var pairs [][2]string
	for _, word := range words {
		key, value, has := strings.Cut(word, "=")
		key, keyErr := expand(key, c.config.Env)
		value, err := expand(value, c.config.Env)
		switch {
		case errors.Join(keyErr, err) != nil:
			return nil, errors.Join(keyErr, err)
		case !has:
			return nil, fmt.Errorf("%s: it must have the form NAME=value", word)
		case key == "":
			return nil, errors.New("a name can not be blank")
		}
		pairs = append(pairs, [2]string{key, value})
	}
	return pairs, nil
}

// words expands each word of the arguments.
func (c *changer) words(rest string) ([]string, error) {
	var words []string
	for _, word := range splitWords(rest) {
		word, err := expand(word, c.config.Env)
		if err != nil {
			return nil, err
		}
		words = append(words, word)
	}
	return words, nil
}

func (c *changer) volume(rest string) error {
	list, ok := listForm(rest)
	if !ok {
		var err error
		if list, err = c.words(rest); err != nil {
			return err
		}
	}
	for _, v := range list {
		if strings.TrimSpace(v) == "" {
			return errors.New("a volume can not be an empty string")
		}
		c.config.Volumes = withKey(c.config.Volumes, v, struct{}{})
	}
	return nil
}

func (c *changer) expose(rest string) error {
	words, err := c.words(rest)
	if err != nil {
		return err
	}
	for _, word := range words {
		first, last, proto, err := portRange(word)
		if err != nil {
			return err
		}
		for port := first; port <= last; port++ {
			c.config.ExposedPorts = withKey(c.config.ExposedPorts, fmt.Sprintf("%d/%s", port, proto), struct{}{})
		}
	}
	return nil
}

// portRange reads "80", "80/udp" or "8000-8010/tcp".
func portRange(text string) (first, last int, proto string, err error) {
	ports, proto, has := strings.Cut(text, "/")
	if !has {
		proto = "tcp"
	}
	from, to, isRange := strings.Cut(ports, "-")
	if !isRange {
		to = from
	}
	first, err = strconv.Atoi(from)
	last, lastErr := strconv.Atoi(to)
	if err = errors.Join(err, lastErr); err != nil || first < 1 || last < first || last > 65535 {
		return 0, 0, "", fmt.Errorf("invalid containerPort: %s", text)
	}
	if proto = strings.ToLower(proto); proto != "tcp" && proto != "udp" && proto != "sctp" {
		return 0, 0, "", fmt.Errorf("invalid proto: %s", proto)
	}
	return first, last, proto, nil
}

func (c *changer) onBuild(rest string) error {
	word, _, _ := strings.Cut(rest, " ")
	switch word = strings.ToUpper(word); word {
	case "ONBUILD":
		return errors.New("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
	case "MAINTAINER", "FROM":
		return fmt.Errorf("%s isn't allowed as an ONBUILD trigger", word)
	}
	c.config.OnBuild = append(c.config.OnBuild, rest)
	return nil
}

// healthcheck reads "NONE", or "CMD" and a command after options.
func (c *changer) healthcheck(rest string) error {
	var check container.Healthcheck
	for strings.HasPrefix(rest, "--") {
		option, after, _ := strings.Cut(rest, " ")
		if err := check.Option(option); err != nil {
			return err
		}
		rest = strings.TrimSpace(after)
	}
	word, command, _ := strings.Cut(rest, " ")
	command = strings.TrimSpace(command)
	list, isList := listForm(command)
	switch word = strings.ToUpper(word); {
	case word == "NONE" && command == "":
		check = container.Healthcheck{Test: []string{"NONE"}}
	case word == "NONE":
		return errors.New("HEALTHCHECK NONE takes no arguments")
	case word != "CMD":
		return fmt.Errorf("unknown type %q in HEALTHCHECK (try CMD)", word)
	case command == "":
		return errors.New("missing command after HEALTHCHECK CMD")
	case isList:
		check.Test = append([]string{"CMD"}, list...)
	default:
		check.Test = []string{"CMD-SHELL", command}
	}
	c.config.Healthcheck = &check
	return nil
}

func withKey[V any](m map[string]V, key string, value V) map[string]V {
	if m == nil {
		m = map[string]V{}
	}
	m[key] = value
	return m
}
