// Package upgrade installs a new version of the image into the slot that does
// not run. A channel (package release) is searched for the newest version that
// this appliance may install; then, in this order:
//
//	check      signatures, conditions of the manifest, sizes: nothing is written
//	stage      hash tree and UKI to /var, checked against the manifest
//	probe      that the channel has the root file system
//	clear      the slot's old UKI, labels and UUIDs: nothing can start it any more
//	fill       the slot's blocks: those of this disk, then the channel's
//	read back  all of the slot, against the root hash
//	assign     labels and UUIDs of the new version, in one write of the table
//	UKI        under a temporary name, read back, renamed: the boot loader sees it
//
// A power cut or a kill at any point leaves the running version as the one that
// boots, and the next upgrade goes on with the blocks that are right already. Only
// the manifest's signature is trusted: the root hash in it decides on each block,
// whoever sent it.
//
// The state in /var/lib/runner/upgrade is JSON whose unknown fields are ignored,
// so that the version before can read it after a rollback.
package upgrade
