package image

import (
	"context"
	"errors"
	"regexp"
	"strconv"
)

// makeErofs writes the directory tree, as file system image out, by
// mkfs.erofs(1). Every time stamp is the epoch.
func (t toolbox) makeErofs(ctx context.Context, tree, out, compression, uuid string) error {
	args := []string{"mkfs.erofs", "--quiet", "-T", strconv.FormatInt(t.epoch, 10), "-U", uuid, "-L", "runner-root"}
	if compression != "none" {
		// 64 KiB clusters: small enough for random reads, large enough to
		// compress.
		args = append(args, "-z"+compression, "-C65536", "-Efragments")
	}
	return t.do(ctx, "make root file system", append(args, t.path(out), t.path(tree))...)
}

// makeVerity writes the hash tree of data to the file hash, by
// veritysetup(8), and gives the root hash in hex. The salt makes the hash of
// equal blocks differ between images; it is no secret.
func (t toolbox) makeVerity(ctx context.Context, data, hash, uuid, salt string) (string, error) {
	out, err := t.output(ctx, "make verity hash tree", "veritysetup", "format", "--uuid", uuid, "--salt", salt,
		"--data-block-size", "4096", "--hash-block-size", "4096", t.path(data), t.path(hash))
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
