package layerdb

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// The names of images, by docker's grammar (distribution/reference, which is not
// used here since it compiles its regular expressions at every start of every
// process: 1.0 to 1.5 ms, four times a run. A test holds the two together).
const (
	hubDomain   = "docker.io"
	hubLegacy   = "index.docker.io"
	hubOfficial = "library/"
	defaultTag  = "latest"
	maxRepoName = 255
	maxTag      = 128
)

var errRefFormat = errors.New("invalid reference format")

// ref is a full reference: domain/path:tag.
type ref struct{ domain, path, tag string }

func (r ref) String() string { return r.domain + "/" + r.path + ":" + r.tag }

// repo is the name without the tag as people write it.
func (r ref) repo() string {
	if r.domain != hubDomain {
		return r.domain + "/" + r.path
	}
	if name, ok := strings.CutPrefix(r.path, hubOfficial); ok && !strings.Contains(name, "/") {
		return name
	}
	return r.path
}

// ParseRef reads a name as docker does and returns the full reference that tags
// are kept under: the tag defaults to latest and the registry to docker.io. A
// name with a digest is an error here, since tags are what is kept.
func ParseRef(name string) (string, error) {
	r, err := parseRef(name)
	if err != nil {
		return "", fmt.Errorf("%q: %w", name, err)
	}
	return r.String(), nil
}

// SplitRef splits a full reference, as ParseRef gives it, into the full repository
// and the tag.
func SplitRef(full string) (repository, tag string) {
	i := strings.LastIndexByte(full, ':')
	return full[:i], full[i+1:]
}

// ParseDigestRef reads NAME@DIGEST or NAME:TAG@DIGEST, where the tag says nothing,
// and returns the full repository and the digest, which is of sha256. Other names
// are an error.
func ParseDigestRef(name string) (repository string, d digest.Digest, err error) {
	name, text, ok := strings.Cut(name, "@")
	if !ok {
		return "", "", fmt.Errorf("%q: %w: it has no digest", name, errRefFormat)
	}
	d = digest.Digest(text)
	if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
		return "", "", fmt.Errorf("%q: %w: %.80q is no sha256 digest", name, errRefFormat, text)
	}
	full, err := ParseRef(name)
	if err != nil {
		return "", "", err
	}
	repository, _ = SplitRef(full)
	return repository, d, nil
}

// Tagged tells whether a name says a tag.
func Tagged(name string) bool {
	_, rest := splitDomain(name)
	return strings.Contains(rest, ":")
}

// Familiar returns a full reference as people write it: "mine:1" for
// "docker.io/library/mine:1".
func Familiar(full string) string {
	repo, tag := RepoTag(full)
	return repo + ":" + tag
}

// RepoTag splits a full reference, as ParseRef gives it, into the familiar
// repository and the tag.
func RepoTag(full string) (repo, tag string) {
	r, err := parseRef(full)
	if err != nil {
		return full, ""
	}
	return r.repo(), r.tag
}

func parseRef(name string) (ref, error) {
	if len(name) == 64 && strings.Trim(name, "0123456789abcdef") == "" {
		return ref{}, errors.New("an image's name cannot be 64 hexadecimal digits")
	}
	if strings.Contains(name, "@") {
		return ref{}, errors.New("a digest cannot be a tag")
	}
	domain, rest := splitDomain(name)
	path, tag, tagged := strings.Cut(rest, ":")
	if !tagged {
		tag = defaultTag
	}
	switch {
	case strings.ToLower(path) != path:
		return ref{}, fmt.Errorf("%w: repository name (%s) must be lowercase", errRefFormat, path)
	case !isDomain(domain) || !isPath(path) || !isTag(tag):
		return ref{}, errRefFormat
	case len(path) > maxRepoName:
		return ref{}, fmt.Errorf("repository name must not be more than %d characters", maxRepoName)
	}
	return ref{domain, path, tag}, nil
}

// splitDomain tells a registry from a name's first part: only that has a dot, a
// colon or a capital in it, or is "localhost".
func splitDomain(name string) (domain, rest string) {
	first, rest, ok := strings.Cut(name, "/")
	switch {
	case !ok:
		return hubDomain, hubOfficial + name
	case first == hubLegacy:
		first = hubDomain
	case first != "localhost" && !strings.ContainsAny(first, ".:") && strings.ToLower(first) == first:
		return hubDomain, name
	}
	if first == hubDomain && !strings.Contains(rest, "/") {
		rest = hubOfficial + rest
	}
	return first, rest
}

// isDomain: a host name or an IPv6 address in brackets, with or without a port.
func isDomain(s string) bool {
	host, port := s, "0"
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		host, port = s[:i], s[i+1:]
	}
	if port == "" || !all(port, isDigit) {
		return false
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		return ok && inner != "" && all(inner, func(c byte) bool {
			return isDigit(c) || c == ':' || 'a' <= c|0x20 && c|0x20 <= 'f'
		})
	}
	for part := range strings.SplitSeq(host, ".") {
		inner := strings.Trim(part, "-")
		if part == "" || inner != part || !all(part, func(c byte) bool { return isWord(c) && c != '_' || c == '-' }) {
			return false
		}
	}
	return true
}

// isPath: parts of small letters and digits, with single dots, one or two
// underscores, or dashes between them.
func isPath(s string) bool {
	for part := range strings.SplitSeq(s, "/") {
		if !isPathPart(part) {
			return false
		}
	}
	return true
}

func isPathPart(s string) bool {
	if s == "" || !isLower(s[0]) || !isLower(s[len(s)-1]) {
		return false
	}
	for i := 0; i < len(s); {
		if isLower(s[i]) {
			i++
			continue
		}
		start := i
		for i < len(s) && !isLower(s[i]) {
			i++
		}
		if sep := s[start:i]; sep != "." && sep != "_" && sep != "__" && strings.Trim(sep, "-") != "" {
			return false
		}
	}
	return true
}

func isTag(s string) bool {
	return s != "" && len(s) <= maxTag && isWord(s[0]) &&
		all(s, func(c byte) bool { return isWord(c) || c == '.' || c == '-' })
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isLower(c byte) bool { return isDigit(c) || 'a' <= c && c <= 'z' }
func isWord(c byte) bool  { return isLower(c) || 'A' <= c && c <= 'Z' || c == '_' }

func all(s string, is func(byte) bool) bool {
	for i := range len(s) {
		if !is(s[i]) {
			return false
		}
	}
	return true
}
