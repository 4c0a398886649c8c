package guests

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/agent/brokerapi"
	"github.com/mkappliance/mkappliance/ci/registry"
)

// TestAttacks repeats the attacks of a review, one a subtest. Each leaves the
// appliance able to take the next job.
func TestAttacks(t *testing.T) {
	l := newLab(t)
	l.run("ImageLinks", (*lab).imageLinks)
	l.run("DeepRoot", (*lab).deepRoot)
	l.run("DeepCgroup", (*lab).deepCgroup)
	l.run("Cover", (*lab).cover)
	l.run("OOMScore", (*lab).oomScore)
	l.run("Sync", (*lab).syncs)
	l.run("Residue", (*lab).residue)
	l.run("RunnerDirs", (*lab).runnerDirs)
	l.run("DeepWorkspace", (*lab).deepWorkspace)
	l.run("Shares", (*lab).shares)
}

// imageLinks: nspawn makes files at the top of an image as root of the host,
// through a link of the image if there is one.
func (l *lab) imageLinks() {
	dir := l.TempDir()
	shelf := registry.Serve(l.listen(registryAddr), dir, l.dial)
	defer shelf.Close()
	app, err := registry.Scratch(l.Context(), dir)
	if err != nil {
		l.Fatal(err)
	}
	victim := l.path("victim")
	if err := os.Mkdir(victim, 0o777); err != nil {
		l.Fatal(err)
	}

	for _, name := range []string{"dev", "run", "proc", "sys", "tmp", "var", "etc", "usr"} {
		layer, err := registry.Layer(map[string]registry.File{name: {Link: victim}})
		if err != nil {
			l.Fatal(err)
		}
		image, err := registry.Derive(app, func(*v1.Config) {}, layer)
		if err != nil {
			l.Fatal(err)
		}
		whole, err := shelf.Push(l.Context(), "attack/"+name+":1", image)
		if err != nil {
			l.Fatal(err)
		}

		reply, err := l.client.Prepare(l.Context(),
			brokerapi.PrepareRequest{Container: &brokerapi.Container{Image: whole}}, io.Discard)
		if err == nil {
			l.cleanup(reply.Job)
		}
		if want := "/" + name + " of the image is not a directory"; err == nil || !strings.Contains(err.Error(), want) {
			l.Errorf("got %v, want %q", err, want)
		}
		if entries, err := os.ReadDir(victim); err != nil || len(entries) != 0 {
			l.Errorf("a link at /%s made these on the host: %v, %v", name, entries, err)
		}
	}
	l.nextJob()
}

// fewFiles is the number of descriptors that the broker may have in the tests
// of deep trees; a real one has more, and a real attack more levels.
const fewFiles = 512

// deepRoot: directories nested in a guest's root deeper than the broker has
// descriptors.
func (l *lab) deepRoot() {
	l.limitFiles()
	job := l.prepare()
	l.nest(job, "/deep", 4*fewFiles)
	l.cleanup(job)
	l.nextJob()
}

// deepCgroup: cgroups nested deeper than a path may be long.
func (l *lab) deepCgroup() {
	job := l.prepare()
	_, out := l.sh(job, `python3 -c '
import os
os.chdir("/sys/fs/cgroup")
depth = 0
try:
    while depth < 30:
        os.mkdir("d" * 250); os.chdir("d" * 250); depth += 1
except OSError as e:
    print(e.strerror)
print(depth)'`)
	l.Logf("the job made cgroups: %q", out)
	if strings.HasSuffix(out, "\n0") {
		l.Errorf("a job cannot make cgroups at all: %s", out)
	}
	l.cleanup(job)
	l.nextJob()
}

// nest makes directories, each in the one before, in a job's guest.
func (l *lab) nest(job, dir string, levels int) {
	l.Helper()
	status, out := l.sh(job, fmt.Sprintf(`mkdir -p %[1]s && python3 -c '
import os
os.chdir("%[1]s")
for _ in range(%[2]d):
    os.mkdir("d"); os.chdir("d")'`, dir, levels))
	if status != 0 {
		l.Fatalf("cannot nest directories: %s", out)
	}
}

// limitFiles leaves the broker few descriptors.
func (l *lab) limitFiles() {
	l.Helper()
	limit := unix.Rlimit{Cur: fewFiles, Max: fewFiles}
	if err := unix.Prlimit(l.broker.Process.Pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		l.Fatal(err)
	}
}

// cover: the directory above a covered one is exchanged, so that the host reads
// the job's in its place.
func (l *lab) cover() {
	for _, name := range []string{"work/_temp", "work/_temp/_runner_hook_responses"} {
		err := os.Mkdir(l.path(name), 0o755)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			l.Fatal(err)
		}
		if err := os.Chown(l.path(name), runnerID, runnerID); err != nil { // as the actions runner makes them
			l.Fatal(err)
		}
	}
	job := l.prepare()
	_, out := l.sh(job, `umount -l /__w/_temp 2>&1; mv /__w/_temp /__w/_old 2>&1
		mkdir -p /__w/_temp/_runner_hook_responses; touch /__w/_temp/_runner_hook_responses/forged
		mv /__w/_update /__w/_u 2>&1`)
	l.Logf("the job was told: %s", out)
	if _, err := os.Lstat(l.path("work/_temp/_runner_hook_responses/forged")); err == nil {
		l.Error("the job forged a response of the hook")
	}
	l.cleanup(job)
	l.nextJob()
}

// oomScore: where the host runs out of memory, the kernel ends a job first.
func (l *lab) oomScore() {
	job := l.prepare()
	_, out := l.sh(job, "cat /proc/self/oom_score_adj /proc/1/oom_score_adj")
	if out != "500\n500" {
		l.Errorf("a step and its init system have %q, want 500 each", out)
	}
	own, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(l.broker.Process.Pid), "oom_score_adj"))
	if err != nil || strings.TrimSpace(string(own)) == "500" {
		l.Errorf("the broker has %q, %v: the control is none", own, err)
	}
	l.cleanup(job)
}

// syncs: files that are opened to be written through can be, and waiting for
// the disk costs nothing in a guest.
func (l *lab) syncs() {
	job := l.prepare()
	status, out := l.sh(job, `set -e
		for dir in /root /__w; do
			dd if=/dev/zero of=$dir/x bs=4k count=4 oflag=sync 2>&1
			dd if=/dev/zero of=$dir/y bs=4k count=4 oflag=dsync 2>&1
		done
		python3 -c '
import os, time
begin = time.monotonic()
f = os.open("/__w/x", os.O_RDWR)
for i in range(200):
    os.pwrite(f, b"x" * 4096, i * 4096); os.fsync(f)
os.sync()
print("%.3f" % (time.monotonic() - begin))'`)
	if status != 0 {
		l.Errorf("got status %d: %s", status, out)
	}
	l.Logf("%s", out)
	l.cleanup(job)
}

// residue: a job says where the workspace of another repository lies, and leaves
// programs for git there.
func (l *lab) residue() {
	job := l.prepare()
	_, out := l.sh(job, `mkdir -p /__w/_PipelineMapping/org/victim /__w/_evil/.git/hooks 2>&1
		echo '{"WorkspaceDirectory":"_evil"}' 2>&1 >/__w/_PipelineMapping/org/victim/PipelineFolder.json
		umount -l /__w/_PipelineMapping 2>&1; mv /__w/_PipelineMapping /__w/_pm 2>&1
		echo hook >/__w/_evil/.git/hooks/post-checkout; mkdir -p /__w/_tool/node; ls -d /__w/_evil`)
	l.Logf("the job was told: %s", out)
	l.cleanup(job)
	for _, name := range []string{"work/_PipelineMapping/org", "work/_pm", "work/_evil", "work/_tool/node"} {
		if _, err := os.Lstat(l.path(name)); err == nil {
			l.Errorf("the next job of another repository finds %s", name)
		}
	}
	l.nextJob()
}

// runnerDirs: the runner empties some directories in the work root before a job,
// the broker shows them in guests. A job puts links in their place.
func (l *lab) runnerDirs() {
	victim := l.path("registration")
	if err := errors.Join(os.Mkdir(victim, 0o777), os.Chmod(victim, 0o777)); err != nil {
		l.Fatal(err)
	}
	for _, end := range []func(job string){
		l.cleanup,
		func(string) { // the clean-up did not start: the supervisor asks instead
			if err := l.client.Reset(l.Context()); err != nil {
				l.Error(err)
			}
		},
	} {
		job := l.prepare()
		_, out := l.sh(job, fmt.Sprintf(`cd /__w; for dir in _temp _actions _tool _PipelineMapping _update; do
			umount -l $dir 2>/dev/null; mv $dir old$dir 2>/dev/null; ln -sT %s $dir 2>&1; done; ls -l`, victim))
		l.Logf("the job was told: %s", out)
		end(job)
		links, err := filepath.Glob(l.path("work/_*"))
		if err != nil {
			l.Fatal(err)
		}
		for _, name := range links {
			if info, err := os.Lstat(name); err == nil && !info.IsDir() {
				l.Errorf("the runner follows %s, which is a %v", name, info.Mode().Type())
			}
		}
		l.nextJob()
	}

	// As if the broker had been killed: what is there when it starts.
	temp := l.path("work/_temp")
	if err := errors.Join(os.Rename(temp, temp+"-old"), os.Symlink(victim, temp)); err != nil {
		l.Fatal(err)
	}
	l.nextJob()
}

// deepWorkspace: directories nested in the work root deeper than the broker has
// descriptors, below a directory that stays and one that is removed.
func (l *lab) deepWorkspace() {
	l.limitFiles()
	job := l.prepare()
	for _, dir := range []string{"/__w/_deep", "/__w/_temp/deep", "/github/home/deep"} {
		l.nest(job, dir, 4*fewFiles)
	}
	l.cleanup(job)
	if _, err := os.Lstat(l.path("work/_deep")); err == nil {
		l.Error("the deep directory is left")
	}
	owner := func(name string) uint32 {
		var stat unix.Stat_t
		if err := unix.Lstat(l.path(name), &stat); err != nil {
			l.Error(err)
		}
		return stat.Uid
	}
	for _, name := range []string{"work/_temp/deep", "work/_temp/deep/d/d/d"} {
		if uid := owner(name); uid != runnerID {
			l.Errorf("%s belongs to user %d, want the runner's", name, uid)
		}
	}
	l.nextJob()
}

// shares: directories of the host are where the job is to see them, and no longer
// where they came in.
func (l *lab) shares() {
	job := l.prepare()
	_, out := l.sh(job, "awk '{print $5}' /proc/self/mountinfo | grep -e ^/run/runner/share/ -e ^/__w | sort")
	if strings.Contains(out, "/run/runner/share/") || !strings.Contains(out, "/__w/_temp\n") {
		l.Errorf("the guest has these mounts:\n%s", out)
	}
	l.cleanup(job)
}

// nextJob: the next job starts, runs and leaves nothing.
func (l *lab) nextJob() {
	l.Helper()
	job := l.prepare()
	if status, out := l.sh(job, "echo ran"); status != 0 || out != "ran" {
		l.Errorf("the next job got status %d, %q", status, out)
	}
	l.cleanup(job)
	l.noResidue()
}
