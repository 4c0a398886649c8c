package image

import (
	"context"
	"fmt"
	"os"
	"strconv"
)

// makeExt4 writes the directory tree as an ext4 file system of size bytes to the
// file out, by mke2fs(8).
func (t tools) makeExt4(ctx context.Context, tree, out, label, uuid string, size int64) error {
	if err := createSized(out, size); err != nil {
		return fmt.Errorf("cannot make var file system: %w", err)
	}
	return t.run(ctx, "make var file system", "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "1",
		"-L", label, "-U", uuid, "-O", "metadata_csum_seed", "-i", "16384",
		"-E", "hash_seed="+uuid+",lazy_itable_init=1,root_owner=0:0",
		"-d", t.inSandbox(tree), t.inSandbox(out), strconv.FormatInt(size/4096, 10))
}

// createSized makes a file of zeros that takes no space.
func createSized(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	return f.Close()
}
