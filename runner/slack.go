package runner

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Timer slack (prctl(2), PR_SET_TIMERSLACK) is how much later than asked the kernel may
// wake a thread. A Go program that has just begun has a monitor, a thread that sleeps 20 µs at
// a time, and on a virtual machine each such wake costs more than it sleeps. So stages, and who asks
// for it, begin with much slack, which all their threads inherit. Measured: 6 to 10 % of a run. A program gets
// the kernel's before it is executed; only what it would have by prctl(PR_SET_TIMERSLACK, 0), the
// slack that its process was born with, is still ours.
const (
	startSlack  = 4 * time.Millisecond
	kernelSlack = 50 * time.Microsecond // what everybody has who asks for nothing
)

// withSlack calls fork on a thread whose children have startSlack.
func withSlack(fork func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("prctl PR_GET_TIMERSLACK: %w", err)
	}
	if err = setSlack(startSlack); err != nil {
		return err
	}
	defer func() { _ = setSlack(time.Duration(before)) }() // it was so before
	return fork()
}

// setSlack sets the slack of the thread that calls it.
func setSlack(d time.Duration) error {
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(d), 0, 0, 0); err != nil {
		return fmt.Errorf("prctl PR_SET_TIMERSLACK: %w", err)
	}
	return nil
}

// WakePromptly gives all threads of this process the timer slack that others have, if it was
// started with [Self].Slack. Where /proc does not let it, they wake late.
func WakePromptly() {
	done := map[string]bool{}
	for more := true; more; { // one may be made meanwhile, by a thread whose turn has not come
		more = false
		threads, _ := os.ReadDir("/proc/self/task") // without it there is nothing to do
		for _, t := range threads {
			if done[t.Name()] {
				continue
			}
			done[t.Name()], more = true, true
			// proc(5) has the file for every thread, under /proc alone.
			_ = os.WriteFile("/proc/"+t.Name()+"/timerslack_ns", strconv.AppendInt(nil, int64(kernelSlack), 10), 0)
		}
	}
}
