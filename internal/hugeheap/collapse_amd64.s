#include "textflag.h"

// func madvise(address, length uintptr, advice int)
TEXT ·madvise(SB), NOSPLIT, $0-24
	MOVQ address+0(FP), DI
	MOVQ length+8(FP), SI
	MOVQ advice+16(FP), DX
	MOVL $28, AX // __NR_madvise
	SYSCALL
	RET
