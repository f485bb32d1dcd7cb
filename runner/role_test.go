package runner

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// playRole is what the test binary does when a test starts it again.
func playRole(role string) int {
	err := error(nil)
	code := 0
	switch role {
	case "contain": // run the container, as it is told, here
		code, err = contain()
	case "rootless": // in a user namespace, play "contain"
		code, err = rootless(false)
	case "rootless-single":
		code, err = rootless(true)
	case "broken-map": // as "rootless", but newuidmap refuses
		code, err = brokenMap()
	case "nohup":
		signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGTSTP, unix.SIGUSR1)
		code, err = contain()
	case "attempt": // a system call, in a container
		code = attempt(os.Getenv("RUNNER_TEST_THEN"))
	case "keyed": // with a key in the session, play "contain"
		err = keyed()
	case "enclose": // what a courier is, told by RUNNER_TEST_CANARY what it must not see
		err = enclose(os.Getenv("RUNNER_TEST_CANARY"))
	case "go-outside":
		err = goOutside(os.Getenv("RUNNER_TEST_THEN"), os.Getenv("RUNNER_TEST_CONFIG"))
	case "sharing":
		code, err = sharing()
	case "inheriting": // with all capabilities to be inherited, play "contain"
		err = inheriting()
	case "peek": // into other processes, in a container
		err = peek(os.Getenv("RUNNER_TEST_THEN"))
	case "sleep":
		time.Sleep(time.Minute)
	case "ids": // calls that change the users of threads, beside the kernel's
		err = compareAll()
	case "self":
		code = describeSelf()
	default:
		err = fmt.Errorf("unknown role %q", role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "role:", err)
		return 99
	}
	return code
}

func contain() (int, error) {
	var cfg Config
	if err := json.Unmarshal([]byte(os.Getenv("RUNNER_TEST_CONFIG")), &cfg); err != nil {
		return 0, err
	}
	cfg.Stdin, cfg.Stdout, cfg.Stderr = os.Stdin, os.Stdout, os.Stderr
	begin := time.Now()
	p, err := Start(cfg)
	if err != nil {
		return 0, err
	}
	if name := os.Getenv("RUNNER_TEST_PIDFILE"); name != "" {
		text := fmt.Sprintf("%d %d\n", p.Pid(), p.StartTime())
		if err = os.WriteFile(name+".tmp", []byte(text), 0o600); err == nil {
			err = os.Rename(name+".tmp", name)
		}
		if err != nil {
			return 0, err
		}
	}
	if os.Getenv("RUNNER_TEST_TIME") != "" {
		fmt.Fprintf(os.Stderr, "start took %v\n", time.Since(begin))
	}
	return p.Wait()
}

func rootless(single bool) (int, error) {
	plan, err := PlanUserns()
	if err != nil {
		return 0, err
	}
	if single {
		plan = SingleUserns("asked for by the test")
	}
	return containIn(plan)
}

func brokenMap() (int, error) {
	plan, err := PlanUserns()
	if err != nil {
		return 0, err
	}
	plan.UIDs[1].Outside = 7 // which is nobody's to grant
	return containIn(plan)
}

func containIn(plan *Userns) (int, error) {
	if err := os.Setenv("RUNNER_TEST_ROLE", os.Getenv("RUNNER_TEST_THEN")); err != nil {
		return 0, err
	}
	begin := time.Now()
	c, err := StartSelf(Self{Args: []string{"varve-test"}, Userns: plan,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
	if err != nil {
		return 0, err
	}
	if os.Getenv("RUNNER_TEST_TIME") != "" {
		fmt.Fprintf(os.Stderr, "user namespace took %v\n", time.Since(begin))
	}
	if c.Fallback != nil {
		fmt.Fprintf(os.Stderr, "fallback: %v\n", c.Fallback)
	}
	return c.Wait()
}

// describeSelf prints what a child of StartSelf is.
func describeSelf() int {
	fmt.Printf("uid=%d gid=%d args=%q stage=%q\n", os.Getuid(), os.Getgid(), os.Args, os.Getenv(stageEnv))
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 1
	}
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "Cap") {
			fmt.Print(line)
		}
	}
	for _, name := range []string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		text, err := os.ReadFile(name)
		if err != nil {
			return 1
		}
		fmt.Printf("%s %s", name, strings.Join(strings.Fields(string(text)), " ")+"\n")
	}
	return 0
}
