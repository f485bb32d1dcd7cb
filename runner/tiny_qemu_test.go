package runner

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/varvefs/varve/internal/testenv"
)

const elfARM = uint16(elf.EM_AARCH64)

// armInstructions are those of tinyCode of arm64, as Go's assembler makes them. They begin
// with the look at the stack.
func armInstructions(t *testing.T) []byte {
	t.Helper()
	goTool := testenv.Program(t, "go", "golang-go")
	goroot, err := exec.Command(goTool, "env", "GOROOT").Output()
	require.NoError(t, err)
	object := filepath.Join(t.TempDir(), "tiny.o")
	cmd := exec.Command(goTool, "tool", "asm", "-p", "runner", "-I", filepath.Join(strings.TrimSpace(string(goroot)), "pkg/include"),
		"-D", "GOOS_linux", "-D", "GOARCH_arm64", "-o", object, "tiny_arm64.s")
	cmd.Env = append(os.Environ(), "GOARCH=arm64")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	data, err := os.ReadFile(object)
	require.NoError(t, err)
	const lookAtStack = 0x910003e9 // MOVD RSP, R9
	start := bytes.Index(data, binary.LittleEndian.AppendUint32(nil, lookAtStack))
	require.Positive(t, start)
	end := bytes.Index(data, tinyEnd())
	require.Greater(t, end, start)
	return data[start:end]
}

// TestTinyOfARM: process 1 for arm64 is a program that knows no symbol, and does what that for
// amd64 does: it starts the program and ends as it has.
func TestTinyOfARM(t *testing.T) {
	code := armInstructions(t)
	for at := 0; at < len(code); at += 4 {
		word := binary.LittleEndian.Uint32(code[at:])
		require.NotEqual(t, uint32(0x10000000), word&0x1f000000, "an address of something else at %#x", at)
		require.NotEqual(t, uint32(0x18000000), word&0x3b000000, "a constant that lies elsewhere at %#x", at)
	}
	file, err := tinyFile(code, elfARM, "/bin/sh")
	require.NoError(t, err)
	f, err := elf.NewFile(bytes.NewReader(file))
	require.NoError(t, err)
	require.Equal(t, elf.EM_AARCH64, f.Machine)
	require.Equal(t, uint64(tinyBase+tinyHeader), f.Entry)
	require.Equal(t, elf.PF_R|elf.PF_X, f.Progs[0].Flags)

	qemu := testenv.Program(t, "qemu-aarch64-static", "qemu-user-static")
	run := func(path, script string) (string, int) {
		file, err := tinyFile(code, elfARM, path)
		require.NoError(t, err)
		name := filepath.Join(t.TempDir(), "tiny")
		require.NoError(t, os.WriteFile(name, file, 0o755))
		out, err := exec.Command(qemu, name, "--", "sh", "-c", script).CombinedOutput()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return string(out), exit.ExitCode()
		}
		require.NoError(t, err)
		return string(out), 0
	}
	out, code0 := run("/bin/sh", `echo "said $0 $#"; exit 42`)
	require.Equal(t, 42, code0)
	require.Equal(t, "said sh 0\n", out)
	_, code0 = run("/bin/sh", "kill -9 $$")
	require.Equal(t, 137, code0)
	_, code0 = run("/bin/sh", "kill -TERM $PPID; exec sleep 10") // it goes on to the program
	require.Equal(t, 143, code0)
	_, code0 = run("/nothing", "")
	require.Equal(t, 127, code0)
}
