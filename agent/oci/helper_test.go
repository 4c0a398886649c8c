package oci_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// children returns the processes that one has started.
func children(t *testing.T, pid int) (list []int) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Error(err)
	}
	for _, task := range tasks {
		data, _ := os.ReadFile(task)
		for field := range strings.FieldsSeq(string(data)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				t.Error(err)
			}
			list = append(list, child)
		}
	}
	return list
}

// checkConfined checks, on any goroutine, what a process that works with hostile content may do.
func checkConfined(t *testing.T, pid int) {
	t.Helper()
	read := func(name string) string {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
		if err != nil {
			t.Error(err)
		}
		return string(data)
	}
	status := strings.Join(strings.Fields(read("status")), " ")
	id := strconv.Itoa(owner)
	for _, want := range []string{
		"Uid: " + id + " " + id + " " + id + " " + id, "Gid: " + id + " " + id + " " + id + " " + id,
		"NoNewPrivs: 1", "Seccomp: 2 ",
	} {
		if !strings.Contains(status, want) {
			t.Errorf("the status lacks %q:\n%s", want, status)
		}
	}
	if got := read("oom_score_adj"); got != "500\n" {
		t.Errorf("the OOM score adjustment is %s, want 500", got)
	}
	for line := range strings.Lines(read("limits")) {
		limited := strings.HasPrefix(line, "Max data size") || strings.HasPrefix(line, "Max core file size")
		if limited && strings.Contains(line, "unlimited") {
			t.Errorf("a limit is missing: %s", line)
		}
	}

	mine, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		t.Error(err)
	}
	if its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", pid)); err != nil || its == mine {
		t.Errorf("the user namespace is %s, %v; want another than ours", its, err)
	}
}

// TestPullHasNoPrivileges looks at the process that talks to a registry.
func TestPullHasNoPrivileges(t *testing.T) {
	store, shop := newStoreAndShop(t)
	ref := shop.push("app", newImage(t, newLayer(t, file{name: "f"})))
	var found atomic.Int64 // the helper asks for blobs in parallel
	shop.say(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			for _, pid := range children(t, os.Getpid()) {
				found.Add(1)
				checkConfined(t, pid)
			}
		}
		return false
	})
	pull(t, store, ref)
	if found.Load() == 0 {
		t.Error("this process talks to the registry itself")
	}
}

// TestPullMemory pulls from a registry whose manifest takes some GiB once it is
// parsed: the pull ends, and this process does not grow.
func TestPullMemory(t *testing.T) {
	store, shop := newStoreAndShop(t)
	manifest := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[` +
		strings.Repeat("{},", 4<<20) + `{}]}`
	shop.say(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		_, _ = w.Write([]byte(manifest))
		return true
	})

	_, err := store.Pull(t.Context(), shop.addr()+"/app", nil, func(string) {})
	if want := memoryMessage; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil || usage.Maxrss > 600<<10 {
		t.Errorf("this process took %d MiB, %v", usage.Maxrss>>10, err)
	}
}
