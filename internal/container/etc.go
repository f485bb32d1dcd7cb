package container

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/varvefs/varve/internal/at"
	"github.com/varvefs/varve/runner"
)

// EtcNames are the files of /etc that a container has of its own, in its directory,
// and finds over those of its image.
func EtcNames() []string { return []string{"hosts", "hostname", "resolv.conf"} }

// Naming is what docker's flags say of the names of machines. The zero value is
// docker's default.
type Naming struct {
	ExtraHosts []string `json:"extra_hosts,omitempty"` // NAME:ADDRESS, or NAME:host-gateway
	DNS        []string `json:"dns,omitempty"`         // addresses
	DNSSearch  []string `json:"dns_search,omitempty"`  // domains; "." alone is none
	DNSOptions []string `json:"dns_options,omitempty"`
}

// hostGateway stands for the address under which a container reaches this machine.
const hostGateway = "host-gateway"

// Check refuses what docker refuses, in its words, and puts the hosts into one form.
func (n *Naming) Check(noNetwork bool) error {
	bad := func(text, flag string, err error) error {
		return fmt.Errorf("invalid argument %q for \"--%s\" flag: %w", text, flag, err)
	}
	for i, text := range n.ExtraHosts {
		host, err := parseExtraHost(text)
		if err != nil {
			return bad(text, "add-host", err)
		}
		n.ExtraHosts[i] = host
		if noNetwork && strings.HasSuffix(host, ":"+hostGateway) {
			return fmt.Errorf("unable to derive the IP value for %s: without a network no address leads to this machine", hostGateway)
		}
	}
	for _, text := range n.DNS {
		if _, err := netip.ParseAddr(text); err != nil {
			return bad(text, "dns", fmt.Errorf("IP address is not correctly formatted: %s", text))
		}
	}
	for _, text := range n.DNSSearch {
		if text != "." && !isDomain(text) {
			return bad(text, "dns-search", fmt.Errorf("%s is not a valid domain", text))
		}
	}
	for _, text := range n.DNSOptions {
		if text == "" || strings.ContainsFunc(text, isBlank) {
			return bad(text, "dns-option", errors.New("an option is one word"))
		}
	}
	return nil
}

// parseExtraHost reads NAME:ADDRESS or NAME=ADDRESS; that of version 6 may be in brackets.
func parseExtraHost(text string) (string, error) {
	name, address, has := strings.Cut(text, "=")
	if !has {
		name, address, has = strings.Cut(text, ":")
	}
	if !has || name == "" || strings.ContainsFunc(name, isBlank) {
		return "", fmt.Errorf("bad format for add-host: %q", text)
	}
	if address == hostGateway {
		return name + ":" + address, nil
	}
	if inner, ok := strings.CutPrefix(address, "["); ok && strings.HasSuffix(inner, "]") {
		address = strings.TrimSuffix(inner, "]")
	}
	if _, err := netip.ParseAddr(address); err != nil {
		return "", fmt.Errorf("invalid IP address in add-host: %q", address)
	}
	return name + ":" + address, nil
}

func isBlank(r rune) bool { return r <= ' ' || r == 0x7f }

func isDomain(text string) bool {
	return len(text) < 255 && regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*\.?$`).
		MatchString(text) && strings.ContainsFunc(text, func(r rune) bool { return r > '9' })
}

// EtcFile is the container's own file of that name.
func (p Place) EtcFile(id, name string) string {
	return filepath.Join(p.ContainerDir(id), name)
}

// dressEtc makes the container's own files of /etc, and has them mounted. Those that
// the program has changed, when it ran before, stay as they are; the others are made
// again, as this machine may have other servers of names by now. A volume in their
// place comes first. Nothing is synced: what is lost is made again.
func (s *supervisor) dressEtc(cfg *runner.Config) error {
	made := map[string]int64{}
	for _, name := range EtcNames() {
		target := "/etc/" + name
		if s.spec.HasMountOn(target) {
			continue
		}
		if s.spec.EtcOwner() == s.spec.ID {
			when, err := s.makeEtc(name)
			if err != nil {
				return fmt.Errorf("make %s of the container: %w", target, err)
			}
			made[name] = when
		}
		cfg.Mounts = append(cfg.Mounts, runner.Mount{
			Source: s.place.EtcFile(s.spec.EtcOwner(), name), Target: target, ReadOnly: s.spec.Sandbox.ReadOnly, Cover: true,
		})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Etc = made
	return nil
}

// HasMountOn tells whether there is a volume on a path of the container.
func (s *Spec) HasMountOn(target string) bool {
	for _, list := range [][]runner.Mount{s.Mounts, s.Sandbox.Mounts} {
		for _, m := range list {
			if m.Target == target {
				return true
			}
		}
	}
	return false
}

// makeEtc writes one of the files, unless it has another time than it had when it was
// made, and returns the time it has now.
func (s *supervisor) makeEtc(name string) (when int64, err error) {
	fd, err := at.Open(s.dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644)
	old := errors.Is(err, fs.ErrExist)
	if old {
		fd, err = at.Open(s.dir, name, unix.O_WRONLY|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		return 0, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { err = errors.Join(err, f.Close()) }()
	if old {
		info, err := f.Stat()
		if err != nil || info.ModTime().UnixNano() != s.state.Etc[name] {
			return s.state.Etc[name], err
		}
		if err = f.Truncate(0); err != nil {
			return 0, err
		}
	} else if err = errors.Join(f.Chmod(0o644), s.give(f)); err != nil { // the umask of who started us
		return 0, err
	}
	if _, err = f.Write(s.spec.etcText(name)); err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.ModTime().UnixNano(), nil
}

// give has a file be that of root in the container's user namespace, if it has one.
func (s *supervisor) give(f *os.File) error {
	if uid, gid := s.spec.Sandbox.Owner(0, 0); uid > 0 && gid > 0 {
		return f.Chown(uid, gid)
	}
	return nil
}

// etcText is what docker writes into the file. A container on this machine's network
// has this machine's names, one without a network nobody's.
func (s *Spec) etcText(name string) []byte {
	switch name {
	case "hosts":
		return s.hostsText()
	case "hostname":
		return []byte(s.Hostname + "\n")
	}
	return s.resolvText()
}

// emptyHosts are the lines that every machine has.
const emptyHosts = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::	ip6-localnet
ff00::	ip6-mcastprefix
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`

// hostsText has no line for the container itself, since it has no address of its own.
func (s *Spec) hostsText() []byte {
	if extra := s.Sandbox.Naming.ExtraHosts; s.Sandbox.NoNetwork || len(extra) > 0 {
		text := []byte(emptyHosts)
		for _, host := range extra {
			name, address, _ := strings.Cut(host, ":")
			if address == hostGateway {
				address = "127.0.0.1" // the network is the machine's
			}
			text = fmt.Appendf(text, "%s\t%s\n", address, name)
		}
		return text
	}
	text, err := os.ReadFile("/etc/hosts")
	if err != nil { // a machine that has none
		return []byte(emptyHosts)
	}
	return text
}

// The files of this machine that say who tells names. The second is there where the
// first only leads to a server on loopback, which a network of its own does not reach.
const (
	resolvPath   = "/etc/resolv.conf"
	resolvedPath = "/run/systemd/resolve/resolv.conf"
)

// resolvText is this machine's, with what was asked for in the place of its lines.
func (s *Spec) resolvText() []byte {
	host, err := os.ReadFile(resolvPath)
	if err != nil {
		host = nil // a machine that asks nobody
	}
	naming := s.Sandbox.Naming
	if s.Sandbox.NoNetwork { // as any network but the machine's own
		if other, err := os.ReadFile(resolvedPath); err == nil && resolvesByStub(host) {
			host = other
		}
		return naming.resolv(beyondLoopback(host))
	}
	return naming.resolv(host)
}

// resolvesByStub tells whether systemd's own server is the only one.
func resolvesByStub(text []byte) bool {
	servers := resolvWords(text, "nameserver")
	return len(servers) == 1 && servers[0] == "127.0.0.53"
}

// beyondLoopback leaves out the servers that are on loopback; if there is no other,
// docker's come in their place.
func beyondLoopback(text []byte) []byte {
	var kept []byte
	servers := 0
	for line := range bytes.Lines(text) {
		if word := bytes.Fields(line); len(word) > 1 && string(word[0]) == "nameserver" {
			address, err := netip.ParseAddr(string(word[1]))
			if err == nil && address.IsLoopback() {
				continue
			}
			servers++
		}
		kept = append(kept, line...)
	}
	if servers == 0 {
		kept = append(endLine(kept), "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"...)
	}
	return kept
}

func endLine(text []byte) []byte {
	if len(text) > 0 && text[len(text)-1] != '\n' {
		text = append(text, '\n')
	}
	return text
}

// resolv is the text of the machine, or, where something was asked for, lines of that
// and of what the machine has of the others.
func (n *Naming) resolv(host []byte) []byte {
	if len(n.DNS) == 0 && len(n.DNSSearch) == 0 && len(n.DNSOptions) == 0 {
		return host
	}
	choose := func(asked []string, key string) []string {
		if len(asked) > 0 {
			return asked
		}
		return resolvWords(host, key)
	}
	var text []byte
	for _, server := range choose(n.DNS, "nameserver") {
		text = fmt.Appendf(text, "nameserver %s\n", server)
	}
	if list := choose(n.DNSSearch, "search"); len(list) > 0 && (len(list) > 1 || list[0] != ".") {
		text = fmt.Appendf(text, "search %s\n", strings.Join(list, " "))
	}
	if list := choose(n.DNSOptions, "options"); len(list) > 0 {
		text = fmt.Appendf(text, "options %s\n", strings.Join(list, " "))
	}
	return text
}

// resolvWords are what the lines of that key say: of nameserver each one, of the
// others the last.
func resolvWords(text []byte, key string) []string {
	var list []string
	for line := range bytes.Lines(text) {
		word := strings.Fields(string(line))
		if len(word) < 2 || word[0] != key {
			continue
		}
		if key == "nameserver" {
			list = append(list, word[1])
		} else {
			list = word[1:]
		}
	}
	return list
}

// WantedHostname is what was asked for, or on the machine's own network its own name; "" is
// none.
func (b *Sandbox) WantedHostname() string {
	if b.Hostname != "" || !b.HostNetwork && b.UTS != "host" {
		return b.Hostname
	}
	name, err := os.Hostname()
	if err != nil {
		return "" // then it has one by its ID
	}
	return name
}
