package image

import (
	"context"
	"os"
	"strconv"
)

// makeExt4 writes the directory tree as an ext4 file system of size bytes, by
// mke2fs(8).
func (t toolbox) makeExt4(ctx context.Context, tree, out, label, uuid string, size int64) error {
	if err := createSized(t.file(out), size); err != nil {
		return err
	}
	return t.do(ctx, "make var file system", "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "1",
		"-L", label, "-U", uuid, "-O", "metadata_csum_seed", "-i", "16384",
		"-E", "hash_seed="+uuid+",lazy_itable_init=1,root_owner=0:0",
		"-d", t.path(tree), t.path(out), strconv.FormatInt(size/4096, 10))
}

// createSized makes an empty sparse file.
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
