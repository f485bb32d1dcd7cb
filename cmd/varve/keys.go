package main

import (
	"bytes"
	"fmt"
	"strings"
)

// parseKeys reads a sequence of keys as docker has them: "ctrl-p,ctrl-q", "a,b". An
// empty one is none.
func parseKeys(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	var keys []byte
	for name := range strings.SplitSeq(text, ",") {
		rest, ctrl := strings.CutPrefix(name, "ctrl-")
		switch {
		case len(rest) != 1:
			return nil, fmt.Errorf("invalid detach keys (%s): unknown key %q; write letters and ctrl-LETTER, with commas between", text, name)
		case !ctrl:
			keys = append(keys, rest[0])
		case 'a' <= rest[0] && rest[0] <= 'z' || strings.Contains("@[\\]^_", rest):
			keys = append(keys, rest[0]&0x1f)
		default:
			return nil, fmt.Errorf("invalid detach keys (%s): there is no ctrl-%s", text, rest)
		}
	}
	return keys, nil
}

// A keyScan looks for a sequence of keys in what is typed. The beginning of one is held
// back until it is clear that it is none.
type keyScan struct {
	keys []byte
	seen int // of keys, typed and held back
}

// next returns what is to be handed on of what was typed, and whether the sequence is
// complete; what comes behind it is dropped.
func (k *keyScan) next(typed []byte) (out []byte, found bool) {
	if len(k.keys) == 0 {
		return typed, false
	}
	if k.seen == 0 && bytes.IndexByte(typed, k.keys[0]) < 0 {
		return typed, false
	}
	for _, c := range typed {
		for k.seen > 0 && c != k.keys[k.seen] {
			// The longest end of what was held back that begins the sequence stays.
			held := k.keys[:k.seen]
			n := k.seen - 1
			for n > 0 && !bytes.Equal(held[k.seen-n:], k.keys[:n]) {
				n--
			}
			out = append(out, held[:k.seen-n]...)
			k.seen = n
		}
		if c != k.keys[k.seen] {
			out = append(out, c)
			continue
		}
		if k.seen++; k.seen == len(k.keys) {
			k.seen = 0
			return out, true
		}
	}
	return out, false
}
