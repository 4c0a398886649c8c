package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/internal/run"
)

// The helper is a process of its own for each pull and import: it talks to
// registries, reads manifests and archives, decompresses and hashes. It is root
// only in a user namespace whose ids are the images' owners, so that it can change
// the store and nothing else of the host. Its memory is limited. It takes a
// request on standard input and writes answers to standard output, both in JSON.

// request is what the helper is to do.
type request struct {
	Store     Store
	Reference string // to pull; empty: import the archive
	// Credentials are those of the pull, or nil.
	Credentials *Credentials `json:",omitempty"`
	Key         string       // to import under
}

// answer is a line of progress or the end: an image or an error.
type answer struct {
	Progress string `json:",omitempty"`
	Image    string `json:",omitempty"` // directory beneath images
	Error    string `json:",omitempty"`
}

// Descriptors of the helper.
const (
	storeFD   = 3 // the directory of the store
	archiveFD = 4 // the archive to import, if any
)

// maxAnswers bounds what the helper may write, in bytes.
const maxAnswers = 1 << 20

// ask has the helper carry out a request and returns the image. The helper holds
// the image until this process does.
func (s *Store) ask(ctx context.Context, r request, archive *os.File, progress func(string)) (*Image, error) {
	if err := s.makeDirs(); err != nil {
		return nil, err
	}
	dir, err := os.Open(s.Dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	files := []*os.File{dir}
	if archive != nil {
		files = append(files, archive)
	}

	h, err := s.startHelper(ctx, files)
	if err != nil {
		return nil, err
	}
	image, err := h.ask(s, r, progress)
	_ = h.requests.Close() // lets the helper end
	endErr := h.process.Wait()
	_ = h.answers.Close()

	switch {
	case err == nil:
		return image, nil // whatever became of the helper afterwards
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, errNoAnswer):
		return nil, explainEnd(errors.Join(err, endErr), h.stderr.String())
	}
	return nil, err
}

// helper is a helper that runs.
type helper struct {
	process           *run.Process
	requests, answers *os.File
	stderr            *beginning
}

func (s *Store) startHelper(ctx context.Context, files []*os.File) (h *helper, err error) {
	stdin, requests, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	answers, stdout, err := os.Pipe()
	if err != nil {
		_ = requests.Close()
		return nil, err
	}
	defer stdout.Close()

	h = &helper{requests: requests, answers: answers, stderr: &beginning{left: 4096}}
	h.process, err = run.Start(ctx, run.Cmd{
		Args:  append([]string{run.Self}, s.Helper...),
		Stdin: stdin, Stdout: stdout, Stderr: h.stderr, ExtraFiles: files,
		SysProcAttr:    s.userNamespace(syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC),
		KillWithParent: true,
	})
	if err != nil {
		_, _ = requests.Close(), answers.Close()
		return nil, err
	}
	return h, nil
}

// userNamespace returns attributes of a process in a user namespace whose ids are
// those of images, and in other new namespaces.
func (s *Store) userNamespace(flags uintptr) *syscall.SysProcAttr {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: s.Owner, Size: idCount}}
	return &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | flags,
		UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{Uid: 0, Gid: 0},
	}
}

// errNoAnswer is the error for a helper that ended too soon.
var errNoAnswer = errors.New("the process for it ended without an answer")

// ask sends a request and reads the answers.
func (h *helper) ask(s *Store, r request, progress func(string)) (*Image, error) {
	r.Store = *s
	if err := json.NewEncoder(h.requests).Encode(r); err != nil && !errors.Is(err, unix.EPIPE) {
		return nil, err
	}

	for answers := json.NewDecoder(io.LimitReader(h.answers, maxAnswers)); ; {
		var a answer
		if err := answers.Decode(&a); err != nil {
			return nil, errNoAnswer
		}
		switch {
		case a.Error != "":
			return nil, errors.New(a.Error)
		case a.Image != "":
			image := s.open(a.Image)
			if image == nil {
				return nil, errors.New("the image is missing")
			}
			return image, nil
		}
		progress(a.Progress)
	}
}

// beginning keeps the first bytes of what is written to it.
type beginning struct {
	bytes.Buffer
	left int
}

// Write implements io.Writer.
func (b *beginning) Write(p []byte) (int, error) {
	n, _ := b.Buffer.Write(p[:min(len(p), b.left)])
	b.left -= n
	return len(p), nil
}

// HelperMain is the main function of the helper. It ends with ctx, without files
// of its own.
func HelperMain(ctx context.Context, in io.Reader, out io.Writer) error {
	if err := errors.Join(limitProcess(), forbid(neverCalled())); err != nil {
		return fmt.Errorf("cannot confine helper: %w", err)
	}
	if err := unix.Fchdir(storeFD); err != nil {
		return fmt.Errorf("cannot enter store: %w", err)
	}

	var r request
	if err := json.NewDecoder(in).Decode(&r); err != nil {
		return fmt.Errorf("cannot read request: %w", err)
	}
	// Nobody but root may search the directories that lead to the store.
	store := r.Store
	store.Dir, store.Owner = ".", 0

	answers := json.NewEncoder(out)
	image, err := store.carryOut(ctx, r, func(line string) { _ = answers.Encode(answer{Progress: line}) })
	if err != nil {
		return answers.Encode(answer{Error: err.Error()})
	}
	defer image.Release()
	if err := answers.Encode(answer{Image: image.hex()}); err != nil {
		return err
	}

	// The image must not be evicted before the other process has opened it.
	opened := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, in)
		close(opened)
	}()
	select {
	case <-opened:
	case <-ctx.Done():
	}
	return nil
}

func (s *Store) carryOut(ctx context.Context, r request, progress func(string)) (*Image, error) {
	if r.Reference != "" {
		image, err := s.pull(ctx, r.Reference, r.Credentials, progress)
		if err != nil {
			return nil, explain(err)
		}
		return image, nil
	}

	archive := os.NewFile(archiveFD, "archive")
	defer archive.Close()
	return s.importArchive(ctx, r.Key, archive)
}
