package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseKeys(t *testing.T) {
	for text, want := range map[string]string{
		"ctrl-p,ctrl-q": "\x10\x11", "a": "a", "ctrl-a,b": "\x01b", "ctrl-@": "\x00", "ctrl-_": "\x1f", "": "", "A,~": "A~",
	} {
		got, err := parseKeys(text)
		require.NoError(t, err, text)
		require.Equal(t, want, string(got), text)
	}
	for _, bad := range []string{"ctrl-", "ab", "ctrl-1", "ctrl-A", ",", "ctrl-p,", "ä"} {
		_, err := parseKeys(bad)
		require.Error(t, err, bad)
	}
}

// TestKeyScan types texts in every cut of two pieces.
func TestKeyScan(t *testing.T) {
	for _, c := range []struct {
		keys, typed, out string
		left             bool
	}{
		{"pq", "hello", "hello", false},
		{"pq", "help me", "help me", false},
		{"pq", "xpqyz", "x", true},
		{"pq", "ppq", "p", true},
		{"aab", "aaab", "a", true},
		{"aab", "aacaab", "aac", true},
		{"abab", "ababab", "", true},
		{"abac", "ababac", "ab", true},
		{"", "pq", "pq", false},
		{"p", "axp", "ax", true},
	} {
		for cut := range len(c.typed) + 1 {
			scan := keyScan{keys: []byte(c.keys)}
			first, left := scan.next([]byte(c.typed[:cut]))
			out := string(first)
			if !left {
				var second []byte
				second, left = scan.next([]byte(c.typed[cut:]))
				out += string(second)
			}
			require.Equal(t, c.left, left, "%q in %q, cut at %d", c.keys, c.typed, cut)
			require.Equal(t, c.out, out, "%q in %q, cut at %d", c.keys, c.typed, cut)
		}
	}
	scan := keyScan{keys: []byte("pq")}
	held, _ := scan.next([]byte("ap"))
	require.Equal(t, "a", string(held), "the beginning of the keys is held back")
}
