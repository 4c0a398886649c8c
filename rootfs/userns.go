package rootfs

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"
	"syscall"

	"github.com/mkappliance/mkappliance/internal/run"
)

// nestedMark is set in the environment of the process inside the namespace, so
// that a namespace which does not make it root is not entered for ever.
const nestedMark = "MKAPPLIANCE_USER_NAMESPACE"

// EnterUserNamespace makes the calling program root of a user namespace with
// the caller's subordinate ids (subuid(5)), by running it again below
// unshare(1). It does nothing for root, and does not return when it succeeds.
func EnterUserNamespace() error {
	if os.Geteuid() == 0 {
		return nil
	}
	if os.Getenv(nestedMark) != "" {
		return errors.New("cannot enter user namespace: still not root inside it")
	}

	if err := checkSubordinateIDs(); err != nil {
		return fmt.Errorf("cannot build without root: %w", err)
	}
	unshare, err := run.LookPath("unshare")
	if err != nil {
		return fmt.Errorf("cannot build without root: %w; install util-linux 2.38 or newer", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot enter user namespace: %w", err)
	}

	argv := append(userNamespaceArgv(unshare, self), os.Args[1:]...)
	err = syscall.Exec(unshare, argv, append(os.Environ(), nestedMark+"=1"))
	return fmt.Errorf("cannot enter user namespace: %w", err)
}

// userNamespaceArgv runs program as root of new user and mount namespaces. The
// process namespace makes sure that nothing outlives an interrupted build.
func userNamespaceArgv(unshare, program string) []string {
	return []string{unshare, "--user", "--map-root-user", "--map-auto", "--mount", "--pid", "--mount-proc",
		"--fork", "--kill-child", "--", program}
}

// checkSubordinateIDs explains what is missing before newuidmap(1) fails
// without saying so.
func checkSubordinateIDs() error {
	if _, err := run.LookPath("newuidmap"); err != nil {
		return fmt.Errorf("%w; install the package uidmap, or run as root", err)
	}

	me, err := user.Current()
	if err != nil {
		return err
	}
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		found, err := hasSubordinateIDs(file, me.Username, me.Uid)
		if err != nil {
			return err
		}
		if !found {
			return fmt.Errorf("%s has no entry for %s;"+
				" run 'usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %[2]s' as root, or build as root",
				file, me.Username)
		}
	}
	return nil
}

// hasSubordinateIDs reports whether a file in the format of subuid(5) has an
// entry for a user.
func hasSubordinateIDs(file, name, uid string) (bool, error) {
	f, err := os.Open(file)
	if err != nil {
		return false, err
	}
	defer f.Close()

	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		owner, _, _ := strings.Cut(scanner.Text(), ":")
		if owner == name || owner == uid {
			return true, nil
		}
	}
	return false, scanner.Err()
}
