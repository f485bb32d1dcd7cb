package runner

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// raiseRlimits lets the hard limits of this process reach what is asked for,
// while it still has the power to; lower ones would bind this process itself, and
// are set by setRlimits.
func raiseRlimits(list []Rlimit) error {
	for _, l := range list {
		var now unix.Rlimit
		if err := unix.Prlimit(0, l.Resource, nil, &now); err != nil {
			return fmt.Errorf("read rlimit %d: %w", l.Resource, err)
		}
		if l.Hard <= now.Max {
			continue
		}
		now.Max = l.Hard
		if err := unix.Prlimit(0, l.Resource, &now, nil); err != nil {
			return fmt.Errorf("error setting rlimit type %d: %w: its hard limit here is lower than %d, "+
				"and only root of the machine may raise it", l.Resource, err, l.Hard)
		}
	}
	return nil
}

// makeRoom has some of the heap be free: what comes after setRlimits then needs no more memory
// of the kernel, which might refuse it. Go ends a process that gets none.
func makeRoom(list []Rlimit) {
	if !slices.ContainsFunc(list, func(l Rlimit) bool { return l.Resource == unix.RLIMIT_DATA || l.Resource == unix.RLIMIT_AS }) {
		return
	}
	room := make([]byte, 4<<20) // it is not touched
	runtime.KeepAlive(room)
	runtime.GC() // back to the heap, and not to the kernel
}

// setRlimits comes just before execve.
func setRlimits(list []Rlimit) error {
	for _, l := range list {
		if err := unix.Prlimit(0, l.Resource, &unix.Rlimit{Cur: l.Soft, Max: l.Hard}, nil); err != nil {
			return fmt.Errorf("error setting rlimit type %d: %w", l.Resource, err)
		}
	}
	return nil
}

// scoreOOM says how gladly the kernel kills this process for want of memory. Below what
// it was born with only root of the machine may go.
func scoreOOM(score *int) error {
	if score == nil {
		return nil
	}
	err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(*score)), 0)
	if errors.Is(err, unix.EACCES) {
		return fmt.Errorf("set the OOM score %d: %w: only root of the machine may make it less", *score, err)
	}
	if err != nil {
		return fmt.Errorf("set the OOM score %d: %w", *score, err)
	}
	return nil
}

// useCPUs binds this thread, and so the program, to some processors.
func useCPUs(list []int) error {
	if list == nil {
		return nil
	}
	var set unix.CPUSet
	for _, cpu := range list {
		set.Set(cpu)
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("use the processors %v: %w", list, err)
	}
	return nil
}
