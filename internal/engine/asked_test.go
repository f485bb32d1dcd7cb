package engine

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAskedEnv(t *testing.T) {
	t.Setenv("HERE", "yes")
	file := filepath.Join(t.TempDir(), "env")
	require.NoError(t, os.WriteFile(file, []byte("\ufeffBOM=1\n# c\n\n  A=from file \r\nHERE\nNOT_HERE\nQ=\"q\"\n"), 0o600))
	env, err := AskedEnv([]string{file}, []string{"A=b=c", "EMPTY=", "ALSO_NOT_HERE"})
	require.NoError(t, err)
	require.Equal(t, []string{"BOM=1", "A=b=c", "HERE=yes", "Q=\"q\"", "EMPTY="}, env)
	for _, bad := range []string{"", "=x"} {
		_, err = AskedEnv(nil, []string{bad})
		require.EqualError(t, err, "invalid environment variable: "+bad)
	}
	for text, says := range map[string]string{ // docker's words
		"=x": "no variable name on line '=x'", "a b=c": "variable 'a b' contains whitespaces", "\xff=1": `invalid utf8 bytes in the line "\xff=1"`,
	} {
		require.NoError(t, os.WriteFile(file, []byte("fine=1\n"+text+"\n"), 0o600))
		_, err = AskedEnv([]string{file}, nil)
		require.EqualError(t, err, "invalid env file ("+file+"): "+says)
	}
}

func TestAskedLabels(t *testing.T) {
	file := filepath.Join(t.TempDir(), "labels")
	require.NoError(t, os.WriteFile(file, []byte("a=1\nnothing\n"), 0o600))
	labels, err := AskedLabels([]string{file}, []string{"b"})
	require.NoError(t, err)
	require.Equal(t, []string{"a=1", "b"}, labels)
	for text, says := range map[string]string{
		"": "invalid label '': empty name", "=x": "invalid label '=x': empty name", "f g=h": "label 'f g' contains whitespaces", "a": "", "a=b=c d": "",
	} {
		if err := CheckLabel(text); says == "" {
			require.NoError(t, err, text)
		} else {
			require.EqualError(t, err, says)
		}
	}
}
