package container

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSharedPath(t *testing.T) {
	const at = "7f5e1c000000-7f5e1c002000 "
	for line, want := range map[string]string{
		at + "rw-s 00000000 00:2d 7                          /data/a file":    "/data/a file",
		at + "r--s 00001000 00:2d 7                          /data/ro":        "/data/ro", // it may have been written before
		at + "rw-s 00000000 00:2d 7                          /two\\012lines":  "/two\nlines",
		at + "rw-p 00000000 00:2d 7                          /private":        "",
		at + "rw-s 00000000 00:01 7                          /gone (deleted)": "",
		at + "rw-p 00000000 00:00 0                          [heap]":          "",
		at + "rw-s 00000000 00:00 0 ":                                         "",
		"":                                                                    "",
	} {
		require.Equal(t, want, sharedPath(line+"\n"), line)
	}
}
