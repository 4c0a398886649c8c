package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mkappliance/mkappliance/internal/verity"
)

// Bounds of a download.
const (
	maxGap      = 8     // blocks that are downloaded again rather than begin another request: 32 KiB
	maxRange    = 1024  // blocks of one request, of which each is tried again as a whole: 4 MiB
	maxCarried  = 16384 // blocks of the old content of the slot that are held in memory: 64 MiB
	connections = 4
	attempts    = 4
)

const blockSize = verity.BlockSize

// target is the partition that is written, and a seed as far as it is not yet.
type target interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// Stats counts the blocks of a root file system by where they came from.
type Stats struct {
	Blocks     int64 `json:"blocks"`
	InPlace    int64 `json:"in_place"`   // were right before
	Copied     int64 `json:"copied"`     // from elsewhere on this disk, or zero
	Downloaded int64 `json:"downloaded"` // wanted ones that were downloaded
	Requests   int64 `json:"requests"`
	Bytes      int64 `json:"bytes"` // received, with the gaps between wanted blocks
	Full       bool  `json:"full"`  // the server sent the whole file
}

// filler makes the content of a slot: the blocks that a hash tree lists. Every
// block is hashed before it is written, wherever it came from, so that neither a
// server nor a failing disk can put another into the slot.
type filler struct {
	tree   *verity.Tree
	target target
	// active is the tree of the running slot, and activeData its blocks; nil if
	// blocks of this disk are not to be used.
	active     *verity.Tree
	activeData io.ReaderAt
	// open returns a part of the root file system's file.
	open  func(ctx context.Context, part span) (io.ReadCloser, error)
	pause time.Duration // before the second attempt of a request; doubles with each

	mu    sync.Mutex
	done  []bool // by block
	stats Stats
}

// fill writes the blocks that the target lacks. A fill that was interrupted goes
// on where it was: what is right in the target stays.
func (f *filler) fill(ctx context.Context) (Stats, error) {
	f.done = make([]bool, f.tree.Blocks())
	f.stats = Stats{Blocks: f.tree.Blocks()}

	old, err := f.scan(ctx)
	if err != nil {
		return f.stats, err
	}
	if err := f.copyLocal(ctx, old); err != nil {
		return f.stats, err
	}
	if err := f.download(ctx); err != nil {
		return f.stats, err
	}
	if err := f.target.Sync(); err != nil {
		return f.stats, err
	}
	return f.stats, nil
}

// scan notes the blocks of the target that are right, and returns the digests of
// all.
func (f *filler) scan(ctx context.Context) ([]verity.Digest, error) {
	old := make([]verity.Digest, 0, f.tree.Blocks())
	err := eachBlock(ctx, f.target, f.tree, func(i int64, _ []byte, sum verity.Digest) error {
		old = append(old, sum)
		if sum == f.tree.Leaf(i) {
			f.done[i] = true
			f.stats.InPlace++
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read slot: %w", err)
	}
	return old, nil
}

// eachBlock hashes the blocks of data that a tree covers.
func eachBlock(ctx context.Context, data io.ReaderAt, tree *verity.Tree,
	do func(i int64, block []byte, sum verity.Digest) error) error {
	hasher := verity.NewHasher(tree.Salt())
	buf := make([]byte, 256*blockSize)
	for i := int64(0); i < tree.Blocks(); {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n := min(256, tree.Blocks()-i)
		if _, err := data.ReadAt(buf[:n*blockSize], i*blockSize); err != nil {
			return err
		}

		for b := range n {
			block := buf[b*blockSize : (b+1)*blockSize]
			if err := do(i+b, block, hasher.Sum(block)); err != nil {
				return err
			}
		}
		i += n
	}
	return nil
}

// copyLocal writes the blocks that this disk has. Those that the target has
// elsewhere are read before anything is written over them.
func (f *filler) copyLocal(ctx context.Context, old []verity.Digest) error {
	hasher := verity.NewHasher(f.tree.Salt())
	zero := make([]byte, blockSize)
	zeroSum := hasher.Sum(zero)
	active := newIndex(f.active, f.tree)
	carried, err := f.carry(old, active)
	if err != nil {
		return err
	}

	block := make([]byte, blockSize)
	for i := range f.tree.Blocks() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		want := f.tree.Leaf(i)
		from, inActive := active.find(want)
		source := carried[want]
		switch {
		case f.done[i]:
			continue
		case want == zeroSum:
			source = zero
		case inActive:
			// A block that cannot be read, or is another than its tree lists, is
			// downloaded instead.
			_, err := f.activeData.ReadAt(block, from*blockSize)
			if err != nil || hasher.Sum(block) != want {
				continue
			}
			source = block
		case source == nil:
			continue
		}
		if err := f.write(i, source); err != nil {
			return err
		}
		f.stats.Copied++
	}
	return nil
}

// carry reads blocks from the old content of the target that only it has.
func (f *filler) carry(old []verity.Digest, active *index) (map[verity.Digest][]byte, error) {
	carried := map[verity.Digest][]byte{}
	if f.active == nil {
		return carried, nil
	}

	missing := map[verity.Digest]bool{}
	for i := range f.tree.Blocks() {
		want := f.tree.Leaf(i)
		if _, ok := active.find(want); !ok && !f.done[i] {
			missing[want] = true
		}
	}
	hasher := verity.NewHasher(f.tree.Salt())
	for i, sum := range old {
		if !missing[sum] || carried[sum] != nil || len(carried) >= maxCarried {
			continue
		}
		block := make([]byte, blockSize)
		if _, err := f.target.ReadAt(block, int64(i)*blockSize); err != nil {
			return nil, fmt.Errorf("cannot read slot: %w", err)
		}
		if hasher.Sum(block) == sum {
			carried[sum] = block
		}
	}
	return carried, nil
}

func (f *filler) write(i int64, block []byte) error {
	if _, err := f.target.WriteAt(block, i*blockSize); err != nil {
		return fmt.Errorf("cannot write slot: %w", err)
	}
	f.done[i] = true
	return nil
}

// index finds blocks by their digests.
type index struct {
	tree  *verity.Tree
	order []int32 // blocks in the order of their digests
}

// newIndex returns the index of a tree, for those who look for blocks of another.
// It is empty if the salts differ: the digests of equal blocks do too.
func newIndex(tree, wanted *verity.Tree) *index {
	if tree == nil || !slices.Equal(tree.Salt(), wanted.Salt()) {
		return &index{}
	}
	x := &index{tree: tree, order: make([]int32, tree.Blocks())}
	for i := range x.order {
		x.order[i] = int32(i)
	}
	slices.SortFunc(x.order, func(a, b int32) int {
		left, right := tree.Leaf(int64(a)), tree.Leaf(int64(b))
		return slices.Compare(left[:], right[:])
	})
	return x
}

// find returns a block with a digest.
func (x *index) find(d verity.Digest) (block int64, ok bool) {
	n, ok := slices.BinarySearchFunc(x.order, d, func(i int32, d verity.Digest) int {
		leaf := x.tree.Leaf(int64(i))
		return slices.Compare(leaf[:], d[:])
	})
	if !ok {
		return 0, false
	}
	return int64(x.order[n]), true
}

// download fetches the blocks that are still missing, each content once: in parts,
// or all of the file where the server does not send parts.
func (f *filler) download(ctx context.Context) error {
	twins := f.twins()
	if err := f.downloadParts(ctx); err != nil {
		return err
	}

	hasher := verity.NewHasher(f.tree.Salt())
	block := make([]byte, blockSize)
	for _, t := range twins {
		if _, err := f.target.ReadAt(block, t.first*blockSize); err != nil {
			return fmt.Errorf("cannot read slot: %w", err)
		}
		if hasher.Sum(block) != f.tree.Leaf(t.block) {
			return fmt.Errorf("block %d differs from what was written; the disk may be failing", t.first)
		}
		if err := f.write(t.block, block); err != nil {
			return err
		}
		f.stats.Copied++
	}
	return nil
}

// twin is a missing block with the content of one before it that is missing too,
// as of a library that both the host and the guest base have.
type twin struct{ block, first int64 }

// twins returns those, and marks them as done.
func (f *filler) twins() []twin {
	var twins []twin
	first := map[verity.Digest]int64{}
	for i, done := range f.done {
		if done {
			continue
		}
		want := f.tree.Leaf(int64(i))
		if n, ok := first[want]; ok {
			twins = append(twins, twin{block: int64(i), first: n})
			f.done[i] = true
			continue
		}
		first[want] = int64(i)
	}
	return twins
}

func (f *filler) downloadParts(ctx context.Context) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(connections)
	for _, part := range f.missing() {
		if groupCtx.Err() != nil {
			break // the first error is that of Wait
		}
		group.Go(func() error { return f.fetch(groupCtx, part) })
	}
	err := group.Wait()
	if !errors.Is(err, errNoRanges) {
		return err
	}

	f.stats.Full = true
	return f.fetch(ctx, span{0, f.tree.Blocks()})
}

// missing returns the spans of blocks to download. Those with a short gap between
// them are one: a request costs more than a few blocks.
func (f *filler) missing() []span {
	var spans []span
	for i, done := range f.done {
		i := int64(i)
		if done {
			continue
		}
		if n := len(spans) - 1; n >= 0 && i-spans[n].end <= maxGap && i+1-spans[n].from <= maxRange {
			spans[n].end = i + 1
			continue
		}
		spans = append(spans, span{i, i + 1})
	}
	return spans
}

// fetch downloads a span of blocks, and tries again after a failure with those
// that are still missing.
func (f *filler) fetch(ctx context.Context, blocks span) error {
	return retry(ctx, f.pause, func() error { return f.fetchOnce(ctx, blocks) }, func(err error) bool {
		var written *writeError
		return errors.Is(err, errNoRanges) || errors.As(err, &written)
	})
}

// writeError is an error of this disk, which another attempt does not mend.
type writeError struct{ error }

func (e *writeError) Unwrap() error { return e.error }

func (f *filler) fetchOnce(ctx context.Context, blocks span) error {
	body, err := f.open(ctx, span{blocks.from * blockSize, blocks.end * blockSize})
	if err != nil {
		return err
	}
	defer body.Close()
	f.mu.Lock()
	f.stats.Requests++
	f.mu.Unlock()

	hasher := verity.NewHasher(f.tree.Salt())
	block := make([]byte, blockSize)
	for i := blocks.from; i < blocks.end; i++ {
		n, err := io.ReadFull(body, block)
		f.mu.Lock()
		f.stats.Bytes += int64(n)
		f.mu.Unlock()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("block %d: the server sent less than it was asked for", i)
		}
		if err != nil {
			return fmt.Errorf("block %d: %w", i, err)
		}
		if err := f.take(hasher, i, block); err != nil {
			return err
		}
	}
	return nil
}

// take writes a block that was downloaded, if it is missing and right.
func (f *filler) take(hasher *verity.Hasher, i int64, block []byte) error {
	if f.done[i] {
		return nil // a gap; nobody else has this span
	}
	if hasher.Sum(block) != f.tree.Leaf(i) {
		return fmt.Errorf("block %d: the server sent another than the manifest lists", i)
	}
	if err := f.write(i, block); err != nil {
		return &writeError{err}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stats.Downloaded++
	return nil
}

// check reads a root file system back and compares every block with its tree.
func check(ctx context.Context, data io.ReaderAt, tree *verity.Tree) error {
	return eachBlock(ctx, data, tree, func(i int64, _ []byte, sum verity.Digest) error {
		if sum != tree.Leaf(i) {
			return fmt.Errorf("block %d differs from what was written; the disk may be failing", i)
		}
		return nil
	})
}
