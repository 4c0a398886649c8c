package oci

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/archive"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/mkappliance/mkappliance/internal/run"
)

// openLayer opens a layer of an image, counted from the lowest, as a plain tar
// archive.
type openLayer func(i int) (io.ReadCloser, error)

// unpack applies the layers of an image to a new directory. The digest of each
// must be the one in the image's configuration, its "diff id".
func (s *Store) unpack(ctx context.Context, root string, layers []v1.Hash, open openLayer) error {
	if err := errors.Join(os.Mkdir(root, 0o755), os.Lchown(root, s.Owner, s.Owner)); err != nil {
		return err
	}

	left := s.newAllowance()
	for i, want := range layers {
		if err := s.apply(ctx, root, i, want, open, &left); err != nil {
			return fmt.Errorf("cannot unpack layer %d: %w", i+1, err)
		}
	}
	return nil
}

// allowance is what an image may still take.
type allowance struct {
	bytes int64 // with inodeSize for each file; without meaning if there is no limit
	files int64
}

func (s *Store) newAllowance() allowance { return allowance{bytes: s.MaxBytes, files: s.maxFiles()} }

func (s *Store) maxFiles() int64 { return cmp.Or(s.MaxFiles, DefaultMaxFiles) }

// apply applies a layer to the tree and takes its size from the allowance.
func (s *Store) apply(
	ctx context.Context, root string, i int, want v1.Hash, open openLayer, left *allowance,
) error {
	plain, err := open(i)
	if err != nil {
		return err
	}
	defer plain.Close()

	sum := sha256.New()
	content := &limitedReader{from: &roomReader{Reader: io.TeeReader(plain, sum), store: s}}
	maxFiles, tooMany := left.files, fmt.Errorf("the image has more than %d files", s.maxFiles())
	if s.MaxBytes > 0 {
		content.max, content.tooLarge = left.bytes, s.tooLarge()
		if n := left.bytes / inodeSize; n < maxFiles {
			maxFiles, tooMany = n, s.tooLarge()
		}
	}

	files, err := s.runUnpacker(ctx, root, content, maxFiles)
	if errors.Is(err, errFiles) {
		return tooMany
	}
	if err == nil {
		// Bytes after the end of the archive count for its digest.
		_, err = io.Copy(io.Discard, content)
	}
	if content.err != nil {
		return content.err // the unpacker only reports that its input ended
	}
	if err != nil {
		return err
	}

	if got := hex.EncodeToString(sum.Sum(nil)); got != want.Hex {
		return fmt.Errorf("its content is sha256:%s, and the image lists %s", got, want)
	}
	left.bytes -= content.n + files*inodeSize
	left.files -= files
	return nil
}

func (s *Store) tooLarge() error {
	return fmt.Errorf("the image is too large: all images together may take %.1f MiB; "+
		"raise RUNNER_IMAGE_CACHE in config.env", float64(s.MaxBytes)/(1<<20))
}

// limitedReader counts the bytes that it reads, and keeps the error that ended
// reading.
type limitedReader struct {
	from     io.Reader
	n        int64 // bytes read
	max      int64 // bytes that may be read, if tooLarge is set
	tooLarge error // the error for more
	err      error // nil, also at the end
}

// Read implements io.Reader.
func (r *limitedReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if r.n += int64(n); r.tooLarge != nil && r.n > r.max {
		n, err = 0, r.tooLarge
	}
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// rootFD is the descriptor of the tree in the unpacking process.
const rootFD = 3

// runUnpacker unpacks a layer in a process of its own, in a user namespace whose
// root is unknown to the host, with the tree as root directory. So the layer
// reaches nothing but the tree, and its files belong to users unknown to the host.
// It returns how many files the layer has, and errFiles for more than maxFiles.
func (s *Store) runUnpacker(
	ctx context.Context, root string, layer io.Reader, maxFiles int64,
) (files int64, err error) {
	dir, err := os.Open(root)
	if err != nil {
		return 0, err
	}
	defer dir.Close()

	stdout, stderr := &beginning{left: 1 << 16}, &beginning{left: 4096}
	unpacker, err := run.Start(ctx, run.Cmd{
		// The process may not search the directories that lead to the program.
		Args:  append(append([]string{run.Self}, s.Unpacker...), strconv.FormatInt(maxFiles, 10)),
		Env:   []string{},
		Stdin: layer, Stdout: stdout, Stderr: stderr, ExtraFiles: []*os.File{dir},
		SysProcAttr:    s.userNamespace(syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC),
		KillWithParent: true,
		Kill:           true, // it has nothing to clean up
		WaitDelay:      -1,   // the caller must not read the layer while it is still passed on
	})
	if err != nil {
		return 0, err
	}

	if err := unpacker.Wait(); err != nil {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		return 0, explainEnd(err, stderr.String())
	}
	var end unpacked
	if err := json.Unmarshal(stdout.Bytes(), &end); err != nil {
		return 0, fmt.Errorf("cannot parse the end of unpacking: %w", err)
	}
	switch end.Error {
	case "":
		return end.Files, nil
	case errFiles.Error():
		return 0, errFiles
	}
	return 0, errors.New(end.Error)
}

// unpacked is what the unpacking process writes, in JSON, when it has finished.
type unpacked struct {
	Files int64  // that it made, directories included
	Error string `json:",omitempty"`
}

// idCount is how many users, and groups, an image may have, as a guest.
const idCount = 65536

// UnpackMain is the main function of the unpacking process. It unpacks a layer,
// a plain tar archive, to the directory that is open as descriptor 3, makes no more
// than maxFiles files and directories there, and writes the result.
func UnpackMain(layer io.Reader, maxFiles int64, out io.Writer) error {
	var end unpacked
	files, err := unpackLayer(layer, maxFiles)
	if err != nil {
		end.Error = err.Error()
	}
	end.Files = files
	return json.NewEncoder(out).Encode(end)
}

func unpackLayer(layer io.Reader, maxFiles int64) (files int64, err error) {
	if err := limitProcess(); err != nil {
		return 0, fmt.Errorf("cannot limit unpacking: %w", err)
	}
	if err := unix.Fchdir(rootFD); err != nil {
		return 0, fmt.Errorf("cannot enter the root file system: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return 0, fmt.Errorf("cannot enter the root file system: %w", err)
	}
	// The last way out: the layer could open it as /proc/self/fd/3.
	if err := unix.Close(rootFD); err != nil {
		return 0, fmt.Errorf("cannot enter the root file system: %w", err)
	}

	if err := forbid(append(neverCalled(), neverUnpacking()...)); err != nil {
		return 0, err
	}

	unix.Umask(0)
	return applyLayer("/", layer, maxFiles)
}

// applyLayer applies a layer to a tree: it replaces files of the same name, and
// its whiteouts remove files; layer.md of the OCI image specification.
func applyLayer(root string, layer io.Reader, maxFiles int64) (files int64, err error) {
	counter := &fileCounter{root: root, max: maxFiles}
	if _, err := archive.Apply(context.Background(), root, layer, archive.WithFilter(counter.filter)); err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, layer)
	return counter.files, err
}

// wanted leaves out device nodes, which an unprivileged process cannot make and
// a guest with its own /dev does not use, and extended attributes that act on
// the host.
func wanted(h *tar.Header) (bool, error) {
	if err := checkSparse(h); err != nil {
		return false, err
	}
	for key := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if ok && name != "security.capability" && !strings.HasPrefix(name, "user.") {
			delete(h.PAXRecords, key)
		}
	}

	if h.Uid < 0 || h.Uid >= idCount || h.Gid < 0 || h.Gid >= idCount {
		return false, fmt.Errorf("%.200q belongs to user %d and group %d, and guests have none beyond %d",
			h.Name, h.Uid, h.Gid, idCount-1)
	}
	return h.Typeflag != tar.TypeBlock && h.Typeflag != tar.TypeChar, nil
}

// checkSparse refuses sparse files: they can take more room on disk than in the
// archive, without bound. GNU tar has two ways to write them; "Sparse Formats" of
// its manual.
func checkSparse(h *tar.Header) error {
	sparse := h.Typeflag == tar.TypeGNUSparse
	for key := range h.PAXRecords {
		sparse = sparse || strings.HasPrefix(key, "GNU.sparse.")
	}
	if sparse {
		return fmt.Errorf("%.200q is a sparse file, which no layer and no archive may have", h.Name)
	}
	return nil
}

// diskUsage returns the bytes that a tree takes on disk, each file counted once,
// with inodeSize for each.
func diskUsage(root string) (int64, error) {
	var total int64
	seen := map[uint64]bool{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var stat unix.Stat_t
		if err := unix.Lstat(path, &stat); err != nil {
			return err
		}
		if stat.Nlink == 1 || !seen[stat.Ino] {
			seen[stat.Ino] = true
			total += stat.Blocks*512 + inodeSize
		}
		return nil
	})
	return total, err
}
