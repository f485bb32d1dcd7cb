#include "textflag.h"

// The system calls and constants of Linux on amd64.
#define WRITE 1
#define CLOSE 3
#define SIGPROCMASK 14
#define IOCTL 16
#define GETPID 39
#define CLONE 56
#define EXECVE 59
#define WAIT4 61
#define KILL 62
#define FCNTL 72
#define SETPGID 109
#define SIGTIMEDWAIT 128
#define PRCTL 157
#define EXIT 231 // of all threads

// tinyCode
//
// The program that tiny.go describes. It is copied into a file of its own, so it may
// jump within itself, and knows no symbol. At its entry SP points to argc, argv, envp.
// R12 is argv, R13 envp, R14 the child, BX its status; below SP lie 16 bytes for small
// things and siginfo_t.
TEXT tinyCode<>(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ 0(SP), BX
	LEAQ 8(SP), R12
	LEAQ 8(R12)(BX*8), R13
	SUBQ $256, SP
	ANDQ $~15, SP

	// prctl(PR_SET_NAME, "varve-init"), as ps would show the number of a descriptor
	MOVQ $0x6e692d6576726176, AX
	MOVQ AX, 0(SP)
	MOVQ $0x7469, AX
	MOVQ AX, 8(SP)
	MOVQ $PRCTL, AX
	MOVQ $15, DI
	MOVQ SP, SI
	SYSCALL

	// rt_sigprocmask(SIG_SETMASK, all, NULL, 8)
	MOVQ $-1, AX
	MOVQ AX, 0(SP)
	MOVQ $SIGPROCMASK, AX
	MOVQ $2, DI
	MOVQ SP, SI
	MOVQ $0, DX
	MOVQ $8, R10
	SYSCALL

	// clone(SIGCHLD): fork
	MOVQ $CLONE, AX
	MOVQ $17, DI
	MOVQ $0, SI
	MOVQ $0, DX
	MOVQ $0, R10
	MOVQ $0, R8
	SYSCALL
	CMPQ AX, $0
	JEQ  child
	JLT  failed
	MOVQ AX, R14
	MOVQ $-1, BX // no status yet

	// close(4): the child tells whether it could become the program
	MOVQ $CLOSE, AX
	MOVQ $4, DI
	SYSCALL

wait:
	// rt_sigtimedwait(all, info, NULL, 8)
	MOVQ $-1, AX
	MOVQ AX, 0(SP)
	MOVQ $SIGTIMEDWAIT, AX
	MOVQ SP, DI
	LEAQ 16(SP), SI
	MOVQ $0, DX
	MOVQ $8, R10
	SYSCALL
	CMPQ AX, $0
	JLE  wait
	CMPQ AX, $17 // SIGCHLD
	JEQ  reap

	// kill(child, signal)
	MOVQ AX, SI
	MOVQ $KILL, AX
	MOVQ R14, DI
	SYSCALL
	JMP  wait

reap:
	// wait4(-1, &status, WNOHANG, NULL), until there is nobody
	MOVQ $WAIT4, AX
	MOVQ $-1, DI
	MOVQ SP, SI
	MOVQ $1, DX
	MOVQ $0, R10
	SYSCALL
	CMPQ AX, $0
	JLE  reaped
	CMPQ AX, R14
	JNE  reap
	MOVL 0(SP), BX
	JMP  reap

reaped:
	CMPQ BX, $-1
	JEQ  wait

	// exit with the status of the program, or 128 and the signal that ended it
	MOVQ BX, DI
	ANDQ $127, DI
	JNE  signaled
	SHRQ $8, BX
	MOVQ BX, DI
	ANDQ $255, DI
	JMP  exit

signaled:
	ADDQ $128, DI

exit:
	MOVQ $EXIT, AX
	SYSCALL

child:
	// setpgid(0, 0)
	MOVQ $SETPGID, AX
	MOVQ $0, DI
	MOVQ $0, SI
	SYSCALL

	// ioctl(0, TIOCSPGRP, &pid): the terminal's signals are the program's
	MOVQ $GETPID, AX
	SYSCALL
	MOVQ AX, 0(SP)
	MOVQ $IOCTL, AX
	MOVQ $0, DI
	MOVQ $0x5410, SI
	MOVQ SP, DX
	SYSCALL

	// fcntl(4, F_SETFD, FD_CLOEXEC)
	MOVQ $FCNTL, AX
	MOVQ $4, DI
	MOVQ $2, SI
	MOVQ $1, DX
	SYSCALL

	// rt_sigprocmask(SIG_SETMASK, none, NULL, 8)
	MOVQ $0, AX
	MOVQ AX, 0(SP)
	MOVQ $SIGPROCMASK, AX
	MOVQ $2, DI
	MOVQ SP, SI
	MOVQ $0, DX
	MOVQ $8, R10
	SYSCALL

	// execve(path, argv + 2, envp)
	MOVQ $EXECVE, AX
	MOVQ $0x400800, DI // tinyBase + tinyPath
	LEAQ 16(R12), SI
	MOVQ R13, DX
	SYSCALL

failed:
	// write(4, {msgExecFailed, errno}, 5)
	NEGQ AX
	MOVB $0x66, 0(SP)
	MOVL AX, 1(SP)
	MOVQ $WRITE, AX
	MOVQ $4, DI
	MOVQ SP, SI
	MOVQ $5, DX
	SYSCALL
	MOVQ $127, DI
	JMP  exit

	// tinyEnd
	QUAD $0x2e2e766172766521
	QUAD $0x2165767261762e2e
	RET

// func tinyAddress() uintptr
TEXT ·tinyAddress(SB), NOSPLIT, $0-8
	LEAQ tinyCode<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET
