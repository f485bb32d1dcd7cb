#include "textflag.h"

// The system calls and constants of Linux on arm64.
#define FCNTL 25
#define IOCTL 29
#define CLOSE 57
#define WRITE 64
#define EXIT 94 // of all threads
#define KILL 129
#define SIGPROCMASK 135
#define SIGTIMEDWAIT 137
#define SETPGID 154
#define PRCTL 167
#define GETPID 172
#define CLONE 220
#define EXECVE 221
#define WAIT4 260

// tinyCode
//
// The program that tiny.go describes. It is copied into a file of its own, so it may
// jump within itself, and knows no symbol: every constant has to fit into instructions,
// for the assembler puts others behind the code. At its entry RSP points to argc, argv,
// envp. R19 is argv, R20 envp, R21 the child, R22 its status; above RSP lie 16 bytes for
// small things and siginfo_t.
TEXT tinyCode<>(SB), NOSPLIT|NOFRAME, $0-0
	MOVD RSP, R9
	MOVD 0(R9), R10
	ADD  $8, R9, R19
	ADD  R10<<3, R19, R20
	ADD  $8, R20
	SUB  $256, R9
	AND  $~15, R9
	MOVD R9, RSP

	// prctl(PR_SET_NAME, "varve-init"), as ps would show the number of a descriptor
	MOVZ $0x6176, R10
	MOVK $(0x7672<<16), R10
	MOVK $(0x2d65<<32), R10
	MOVK $(0x6e69<<48), R10
	MOVD R10, 0(R9)
	MOVZ $0x7469, R10
	MOVD R10, 8(R9)
	MOVD $PRCTL, R8
	MOVD $15, R0
	MOVD R9, R1
	SVC

	// rt_sigprocmask(SIG_SETMASK, all, NULL, 8)
	MOVD $-1, R10
	MOVD R10, 0(R9)
	MOVD $SIGPROCMASK, R8
	MOVD $2, R0
	MOVD R9, R1
	MOVD $0, R2
	MOVD $8, R3
	SVC

	// clone(SIGCHLD): fork
	MOVD $CLONE, R8
	MOVD $17, R0
	MOVD $0, R1
	MOVD $0, R2
	MOVD $0, R3
	MOVD $0, R4
	SVC
	CMP  $0, R0
	BEQ  child
	BLT  failed
	MOVD R0, R21
	MOVD $-1, R22 // no status yet

	// close(4): the child tells whether it could become the program
	MOVD $CLOSE, R8
	MOVD $4, R0
	SVC

wait:
	// rt_sigtimedwait(all, info, NULL, 8)
	MOVD $-1, R10
	MOVD R10, 0(R9)
	MOVD $SIGTIMEDWAIT, R8
	MOVD R9, R0
	ADD  $16, R9, R1
	MOVD $0, R2
	MOVD $8, R3
	SVC
	CMP  $0, R0
	BLE  wait
	CMP  $17, R0 // SIGCHLD
	BEQ  reap

	// kill(child, signal)
	MOVD R0, R1
	MOVD R21, R0
	MOVD $KILL, R8
	SVC
	B    wait

reap:
	// wait4(-1, &status, WNOHANG, NULL), until there is nobody
	MOVD $WAIT4, R8
	MOVD $-1, R0
	MOVD R9, R1
	MOVD $1, R2
	MOVD $0, R3
	SVC
	CMP   $0, R0
	BLE   reaped
	CMP   R21, R0
	BNE   reap
	MOVWU 0(R9), R22
	B     reap

reaped:
	CMP $-1, R22
	BEQ wait

	// exit with the status of the program, or 128 and the signal that ended it
	AND  $127, R22, R0
	CBNZ R0, signaled
	LSR  $8, R22, R0
	AND  $255, R0
	B    exit

signaled:
	ADD $128, R0

exit:
	MOVD $EXIT, R8
	SVC

child:
	// setpgid(0, 0)
	MOVD $SETPGID, R8
	MOVD $0, R0
	MOVD $0, R1
	SVC

	// ioctl(0, TIOCSPGRP, &pid): the terminal's signals are the program's
	MOVD $GETPID, R8
	SVC
	MOVD R0, 0(R9)
	MOVD $IOCTL, R8
	MOVD $0, R0
	MOVZ $0x5410, R1
	MOVD R9, R2
	SVC

	// fcntl(4, F_SETFD, FD_CLOEXEC)
	MOVD $FCNTL, R8
	MOVD $4, R0
	MOVD $2, R1
	MOVD $1, R2
	SVC

	// rt_sigprocmask(SIG_SETMASK, none, NULL, 8)
	MOVD ZR, 0(R9)
	MOVD $SIGPROCMASK, R8
	MOVD $2, R0
	MOVD R9, R1
	MOVD $0, R2
	MOVD $8, R3
	SVC

	// execve(path, argv + 2, envp)
	MOVD $EXECVE, R8
	MOVZ $0x0800, R0 // tinyBase + tinyPath
	MOVK $(0x40<<16), R0
	ADD  $16, R19, R1
	MOVD R20, R2
	SVC

failed:
	// write(4, {msgExecFailed, errno}, 5)
	NEG  R0, R0
	MOVD $0x66, R10
	MOVB R10, 0(R9)
	MOVB R0, 1(R9)
	LSR  $8, R0
	MOVB R0, 2(R9)
	MOVB ZR, 3(R9)
	MOVB ZR, 4(R9)
	MOVD $WRITE, R8
	MOVD $4, R0
	MOVD R9, R1
	MOVD $5, R2
	SVC
	MOVD $127, R0
	B    exit

	// tinyEnd
	WORD $0x72766521
	WORD $0x2e2e7661
	WORD $0x61762e2e
	WORD $0x21657672
	RET

// func tinyAddress() uintptr
TEXT ·tinyAddress(SB), NOSPLIT, $0-8
	MOVD $tinyCode<>(SB), R0
	MOVD R0, ret+0(FP)
	RET
