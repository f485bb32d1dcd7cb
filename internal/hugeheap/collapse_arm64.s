#include "textflag.h"

// func madvise(address, length uintptr, advice int)
TEXT ·madvise(SB), NOSPLIT, $0-24
	MOVD address+0(FP), R0
	MOVD length+8(FP), R1
	MOVD advice+16(FP), R2
	MOVD $233, R8 // __NR_madvise
	SVC
	RET
