package image

import (
	"encoding/hex"
	"fmt"

	"github.com/google/uuid"
)

// id derives the UUID of a part of an image (RFC 9562, section 5.5: version 5),
// so that two builds of one image use the same.
func id(image, version, part string) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte("mkappliance:"+image+":"+version+":"+part)).String()
}

// verityPartitionIDs returns the partition UUIDs of a root file system and of
// its hash tree: the first and the last 128 bits of the root hash, by which the
// initrd finds them (systemd-veritysetup-generator(8), roothash=).
func verityPartitionIDs(rootHash string) (root, verity string, err error) {
	raw, err := hex.DecodeString(rootHash)
	if err != nil || len(raw) != 32 {
		return "", "", fmt.Errorf("cannot use root hash %q: want 32 bytes in hex", rootHash)
	}

	first, _ := uuid.FromBytes(raw[:16]) // fails only on a wrong length
	last, _ := uuid.FromBytes(raw[16:])
	return first.String(), last.String(), nil
}
