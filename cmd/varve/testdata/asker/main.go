// asker asks whose a file is, from many threads at once, in a container.
//
//	asker threads FILE UID   by all calls there are, and says how often it was told UID
//	asker leave FILE         executes /bin/true while its threads ask
//	asker hang FILE          says "ready", and asks until it is killed
//	asker give FILE UID      gives a link that it has looked at to another, and asks for that alone
//	asker listen FILE        makes a socket, says what came through it, and leaves it there
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	threads = 4
	times   = 5
)

func main() {
	file := os.Args[2]
	switch os.Args[1] {
	case "threads":
		uid, _ := strconv.Atoi(os.Args[3])
		var told atomic.Int64
		var wait sync.WaitGroup
		for range threads {
			wait.Go(func() {
				runtime.LockOSThread()
				for range times {
					for _, got := range owners(file) {
						if got == uint32(uid) {
							told.Add(1)
						}
					}
				}
			})
		}
		wait.Wait()
		fmt.Println("told", told.Load(), "of", threads*times*len(owners(file)))
	case "leave":
		askForEver(file)
		fmt.Println(unix.Exec("/bin/true", []string{"true"}, nil))
		os.Exit(1)
	case "hang":
		askForEver(file)
		fmt.Println("ready")
		select {}
	case "give":
		uid, _ := strconv.Atoi(os.Args[3])
		fmt.Println(give(file, uid))
	case "listen":
		if err := listen(file); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}

// give tells whose a link is before and after it was given away.
func give(file string, uid int) (before, after uint32, err error) {
	var stx unix.Statx_t
	ask := func() (uint32, error) {
		err := unix.Statx(unix.AT_FDCWD, file, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_UID, &stx)
		return stx.Uid, err
	}
	if before, err = ask(); err == nil {
		err = unix.Lchown(file, uid, -1)
	}
	if err == nil {
		after, err = ask()
	}
	return before, after, err
}

func listen(file string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: file, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = c.Write([]byte("came through\n"))
			_ = c.Close()
		}
	}()
	c, err := net.Dial("unix", file)
	if err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, c)
	return err
}

// owners asks in each way; keeps what failed as -1.
func owners(file string) []uint32 {
	none := ^uint32(0)
	list := []uint32{none, none, none, none}
	var st unix.Stat_t
	if unix.Stat(file, &st) == nil {
		list[0] = st.Uid
	}
	if unix.Lstat(file, &st) == nil {
		list[1] = st.Uid
	}
	if fd, err := unix.Open(file, unix.O_RDONLY, 0); err == nil {
		if unix.Fstat(fd, &st) == nil {
			list[2] = st.Uid
		}
		_ = unix.Close(fd)
	}
	var stx unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, file, 0, unix.STATX_UID, &stx) == nil {
		list[3] = stx.Uid
	}
	return list
}

// askForEver returns when each thread has been told once.
func askForEver(file string) {
	var begun sync.WaitGroup
	begun.Add(threads)
	for range threads {
		go func() {
			runtime.LockOSThread()
			owners(file)
			begun.Done()
			for {
				owners(file)
			}
		}()
	}
	begun.Wait()
}
