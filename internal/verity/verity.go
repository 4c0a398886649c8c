// Package verity reads, checks and computes dm-verity hash trees: format 1,
// SHA-256, blocks of 4 KiB, as veritysetup(8) and the kernel's
// Documentation/admin-guide/device-mapper/verity.rst describe them.
//
// The lowest level of a tree is the list of the digests of all data blocks. With
// equal salts it is an index: two trees show which blocks two file systems share.
package verity

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

const (
	// BlockSize is the size of a data block and of a hash block, in bytes.
	BlockSize = 4096
	// DigestSize is the size of a digest, in bytes.
	DigestSize = sha256.Size

	perBlock = BlockSize / DigestSize
	// maxBlocks bounds what a header can make us read: 1 TiB of data.
	maxBlocks = 1 << 28
	maxSalt   = 256
)

// Digest is the salted SHA-256 of one block.
type Digest [DigestSize]byte

// String returns d in hex.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// ParseDigest reads 64 hex digits.
func ParseDigest(text string) (Digest, error) {
	var d Digest
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != DigestSize {
		return d, fmt.Errorf("cannot use root hash %.80q: want 64 hex digits", text)
	}
	return Digest(raw), nil
}

// Hasher computes digests with one salt. It serves one goroutine at a time.
type Hasher struct {
	salt int
	buf  []byte // salt and one block
}

// NewHasher returns a Hasher with a salt of at most 256 bytes.
func NewHasher(salt []byte) *Hasher {
	h := &Hasher{salt: len(salt), buf: make([]byte, len(salt)+BlockSize)}
	copy(h.buf, salt)
	return h
}

// Sum returns the digest of a block. A short one counts as followed by zeros.
func (h *Hasher) Sum(block []byte) Digest {
	n := copy(h.buf[h.salt:], block)
	clear(h.buf[h.salt+n:])
	return sha256.Sum256(h.buf)
}

// Tree is the hash tree of a file system, checked against its root hash.
type Tree struct {
	salt   []byte
	blocks int64
	size   int64
	leaves []byte // blocks digests
	root   Digest
}

// Blocks returns the number of data blocks.
func (t *Tree) Blocks() int64 { return t.blocks }

// DataSize returns the size of the data, in bytes.
func (t *Tree) DataSize() int64 { return t.blocks * BlockSize }

// Size returns the size of the tree with its header, in bytes.
func (t *Tree) Size() int64 { return t.size }

// Salt returns the salt of all digests.
func (t *Tree) Salt() []byte { return bytes.Clone(t.salt) }

// Root returns the root hash.
func (t *Tree) Root() Digest { return t.root }

// Leaf returns the digest that data block i must have.
func (t *Tree) Leaf(i int64) Digest {
	return Digest(t.leaves[i*DigestSize : (i+1)*DigestSize])
}

// errMismatch is the error of a tree that is complete but of other data.
var errMismatch = errors.New("a block does not have the digest above it")

// Read reads the tree at the start of r, a file or a partition of size bytes, and
// checks every block of it against the root hash. The result can be trusted as
// far as the root hash, and so can each data block that has its digest.
func Read(r io.ReaderAt, size int64, root Digest) (*Tree, error) {
	t, err := readHeader(r)
	if err != nil {
		return nil, fmt.Errorf("cannot read hash tree: %w", err)
	}
	t.root = root

	widths := levels(t.blocks)
	total := int64(1)
	for _, w := range widths {
		total += w
	}
	t.size = total * BlockSize
	if t.size > size {
		return nil, fmt.Errorf("cannot read hash tree: it takes %d bytes, there are %d", t.size, size)
	}

	if err := t.readLevels(r, widths); err != nil {
		return nil, fmt.Errorf("cannot read hash tree: %w", err)
	}
	return t, nil
}

// readLevels reads the levels, which follow the header from the top to the
// leaves, each checked against the one above it.
func (t *Tree) readLevels(r io.ReaderAt, widths []int64) error {
	hasher := NewHasher(t.salt)
	above, offset := t.root[:], int64(BlockSize)
	for i := len(widths) - 1; i >= 0; i-- {
		level := make([]byte, widths[i]*BlockSize)
		if _, err := r.ReadAt(level, offset); err != nil {
			return fmt.Errorf("level %d: %w", i, noEOF(err))
		}

		for n := int64(0); n < widths[i]; n++ {
			want := above[n*DigestSize : (n+1)*DigestSize]
			if sum := hasher.Sum(level[n*BlockSize : (n+1)*BlockSize]); !bytes.Equal(sum[:], want) {
				return fmt.Errorf("block %d of level %d: %w", n, i, errMismatch)
			}
		}
		above = level
		offset += widths[i] * BlockSize
	}
	t.leaves = above[:t.blocks*DigestSize]
	return nil
}

// levels returns the number of hash blocks of each level, the leaves first.
func levels(blocks int64) []int64 {
	var widths []int64
	for n := blocks; n > 1; {
		n = (n + perBlock - 1) / perBlock
		widths = append(widths, n)
	}
	return widths
}

// header is the superblock of a hash tree (cryptsetup, lib/verity/verity.c).
type header struct {
	Signature     [8]byte
	Version       uint32
	HashType      uint32
	UUID          [16]byte
	Algorithm     [32]byte
	DataBlockSize uint32
	HashBlockSize uint32
	DataBlocks    uint64
	SaltSize      uint16
	_             [6]byte
	Salt          [maxSalt]byte
	_             [168]byte
}

func readHeader(r io.ReaderAt) (*Tree, error) {
	var h header
	if err := binary.Read(io.NewSectionReader(r, 0, 512), binary.LittleEndian, &h); err != nil {
		return nil, noEOF(err)
	}

	algorithm := string(bytes.TrimRight(h.Algorithm[:], "\x00"))
	switch {
	case string(h.Signature[:]) != signature:
		return nil, errors.New("it does not start with a verity header")
	case h.Version != 1 || h.HashType != 1:
		return nil, fmt.Errorf("version %d and hash type %d are not supported, only 1 and 1", h.Version, h.HashType)
	case algorithm != "sha256":
		return nil, fmt.Errorf("the hash algorithm %.32q is not supported, only sha256", algorithm)
	case h.DataBlockSize != BlockSize || h.HashBlockSize != BlockSize:
		return nil, fmt.Errorf("blocks of %d and %d bytes are not supported, only of %d",
			h.DataBlockSize, h.HashBlockSize, BlockSize)
	case h.DataBlocks < 2 || h.DataBlocks > maxBlocks:
		return nil, fmt.Errorf("%d data blocks are not supported, only 2 to %d", h.DataBlocks, maxBlocks)
	case h.SaltSize > maxSalt:
		return nil, fmt.Errorf("its salt has %d bytes, at most %d are possible", h.SaltSize, maxSalt)
	}
	return &Tree{salt: bytes.Clone(h.Salt[:h.SaltSize]), blocks: int64(h.DataBlocks)}, nil
}

const signature = "verity\x00\x00"

// Build writes the tree of data, whose size is a multiple of BlockSize, to w as
// 'veritysetup format' does, and returns it.
func Build(w io.Writer, data io.Reader, size int64, salt []byte, uuid [16]byte) (*Tree, error) {
	blocks := size / BlockSize
	if size%BlockSize != 0 || blocks < 2 || blocks > maxBlocks || len(salt) > maxSalt {
		return nil, fmt.Errorf("cannot make hash tree of %d bytes: want 2 to %d blocks of %d", size, maxBlocks, BlockSize)
	}

	hasher := NewHasher(salt)
	leaves, err := hashAll(hasher, data, blocks)
	if err != nil {
		return nil, fmt.Errorf("cannot make hash tree: %w", err)
	}
	tree := [][]byte{leaves}
	for len(tree[0]) > BlockSize {
		above, err := hashAll(hasher, bytes.NewReader(tree[0]), int64(len(tree[0])/BlockSize))
		if err != nil {
			return nil, fmt.Errorf("cannot make hash tree: %w", err)
		}
		tree = append([][]byte{above}, tree...)
	}

	h := header{Signature: [8]byte([]byte(signature)), Version: 1, HashType: 1, UUID: uuid,
		DataBlockSize: BlockSize, HashBlockSize: BlockSize, DataBlocks: uint64(blocks), SaltSize: uint16(len(salt))}
	copy(h.Algorithm[:], "sha256")
	copy(h.Salt[:], salt)
	first := bytes.NewBuffer(make([]byte, 0, BlockSize))
	_ = binary.Write(first, binary.LittleEndian, &h) // a fixed size, to memory

	t := &Tree{salt: bytes.Clone(salt), blocks: blocks, root: hasher.Sum(tree[0]), leaves: leaves[:blocks*DigestSize]}
	for _, level := range append([][]byte{first.Bytes()[:BlockSize]}, tree...) {
		if _, err := w.Write(level); err != nil {
			return nil, fmt.Errorf("cannot write hash tree: %w", err)
		}
		t.size += int64(len(level))
	}
	return t, nil
}

// hashAll returns the digests of blocks, padded to whole hash blocks.
func hashAll(h *Hasher, data io.Reader, blocks int64) ([]byte, error) {
	width := (blocks + perBlock - 1) / perBlock * BlockSize
	digests := make([]byte, 0, width)
	block := make([]byte, BlockSize)
	for range blocks {
		if _, err := io.ReadFull(data, block); err != nil {
			return nil, noEOF(err)
		}
		sum := h.Sum(block)
		digests = append(digests, sum[:]...)
	}
	return digests[:width], nil
}

// noEOF returns err as a reader of something complete should see it.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
