package guest

import (
	"os"
	"testing"
)

// TestUserNamespaces: a broker does not keep one for each user that workflows name.
func TestUserNamespaces(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("maps of user ids need root")
	}
	m := &Manager{}
	open := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}

	before := open()
	for user := range maxMaps + 10 {
		ids := workMap(rangeBase(0), 900, user)
		first, err := m.userNamespace(ids)
		if err != nil {
			t.Fatal(err)
		}
		second, err := m.userNamespace(ids)
		if err != nil {
			t.Fatal(err)
		}
		if !sameFile(t, first, second) {
			t.Errorf("user %d got two different ones", user)
		}
		if first.Close() != nil || second.Close() != nil {
			t.Errorf("user %d got one that is closed", user)
		}
	}
	if got := open() - before; got != maxMaps {
		t.Errorf("%d descriptors are kept, want %d", got, maxMaps)
	}
}

func sameFile(t *testing.T, a, b *os.File) bool {
	t.Helper()
	first, err := a.Stat()
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return os.SameFile(first, second)
}
