package cli

import (
	"fmt"
	"os"
	"strconv"
)

// defaultEpoch stamps what programs write when SOURCE_DATE_EPOCH is not set:
// 2025-08-09, the release of Debian 13. It must never change.
const defaultEpoch = 1754697600

// SourceDateEpoch returns the time to stamp files with, in seconds since 1970:
// the caller's SOURCE_DATE_EPOCH (reproducible-builds.org), or a constant.
func SourceDateEpoch() (int64, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return defaultEpoch, nil
	}
	epoch, err := strconv.ParseInt(text, 10, 64)
	if err != nil || epoch < 0 {
		return 0, fmt.Errorf("cannot use SOURCE_DATE_EPOCH %q: want seconds since 1970", text)
	}
	return epoch, nil
}
