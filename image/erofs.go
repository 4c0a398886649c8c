package image

import (
	"context"
	"errors"
	"regexp"
	"strconv"

	"github.com/mkappliance/mkappliance/internal/release"
)

// makeErofs writes the directory tree as an EROFS file system to the file out,
// by mkfs.erofs(1). Every time stamp is the epoch.
func (t tools) makeErofs(ctx context.Context, tree, out, compression, uuid string) error {
	args := []string{"mkfs.erofs", "--quiet", "-T", strconv.FormatInt(t.epoch, 10), "-U", uuid, "-L", "runner-root"}
	if compression != "none" {
		// 64 KiB clusters: small enough for random reads, large enough to
		// compress. Nothing is shared between files, neither by fragments nor by
		// deduplication, and a block holds data of one file, so that a changed file
		// changes its own blocks alone and upgrades stay small (decision 19).
		args = append(args, "-z"+compression, "-C65536")
	}
	args = append(args, "-Enoinline_data")
	return t.run(ctx, "make root file system", append(args, t.inSandbox(out), t.inSandbox(tree))...)
}

// makeVerity writes the hash tree of the file data to the file hash, by
// veritysetup(8), and returns the root hash in hex. The salt is that of all
// images: an appliance compares the hashes of two versions.
func (t tools) makeVerity(ctx context.Context, data, hash, uuid string) (string, error) {
	out, err := t.output(
		ctx,
		"make verity hash tree",
		"veritysetup",
		"format",
		"--uuid",
		uuid,
		"--salt",
		release.VeritySalt,
		"--data-block-size",
		"4096",
		"--hash-block-size",
		"4096",
		t.inSandbox(data),
		t.inSandbox(hash),
	)
	if err != nil {
		return "", err
	}
	return parseRootHash(out)
}

func parseRootHash(out string) (string, error) {
	match := regexp.MustCompile(`(?m)^Root hash:\s+([0-9a-f]{64})$`).FindStringSubmatch(out)
	if match == nil {
		return "", errors.New("cannot find the root hash in the output of veritysetup")
	}
	return match[1], nil
}
