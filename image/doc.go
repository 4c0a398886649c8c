// Package image turns trees into the bytes of a disk, and reads them back.
//
// A build goes one way:
//
//	images.toml (spec.Image)
//	   │ resolve          sources of apt and their index, tarball of the actions runner
//	   │ newPlan          layers, recipe of the host tree
//	   │ makeTrees        tools tree, host tree: root, var, kernel, initrd
//	   │ makeFileSystems  root.erofs ─> hash tree ─> root hash ─> UKI ─> ESP; var.ext4
//	   │ publish          partition table and partitions, hashed while they are copied
//	   ▼
//	NAME_VERSION.img, NAME_VERSION.json (Manifest)
//
// Where things are decided: labels, order and slots of partitions in
// internal/layout; sizes and kernel arguments in images.toml; flags of the tools
// that make file systems in erofs.go, esp.go and ext4.go, all of them pinned by
// testdata/build.golden; what a tree consists of in package rootfs.
//
// Open reads an image file by its layout and manifest. Verify is its first user.
package image
