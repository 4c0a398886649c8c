// Package release describes what appliances are upgraded from: the update set of
// a version with its manifest, the index of a channel, and the signatures over
// both.
//
// A channel is a flat directory, such as one of a web server, the assets of a
// GitHub release, or a USB stick:
//
//	index.json                    versions to choose from
//	IMAGE_VERSION.manifest.json   what one version consists of
//	IMAGE_VERSION.root            root file system
//	IMAGE_VERSION.verity          its dm-verity hash tree
//	IMAGE_VERSION.efi             unified kernel image
//
// The index and each manifest have a signature of their own beside them,
// NAME.minisig, in the format of minisign (https://jedisct1.github.io/minisign).
// It covers the name of the file too, so that one cannot stand for another. The
// manifest holds the hashes of the other files, which therefore need none.
package release
