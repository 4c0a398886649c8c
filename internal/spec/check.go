package spec

import "regexp"

var (
	namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)
	// packagePattern follows Debian Policy, section 5.6.1.
	packagePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
	// runnerVersionPattern matches values that os-release(5) takes without quotes.
	runnerVersionPattern = regexp.MustCompile(`^[0-9][0-9A-Za-z.+~-]*$`)
	// urlPattern matches what fits into one word of sources.list(5). Whether the
	// server exists is found out when it is asked.
	urlPattern         = regexp.MustCompile(`^https?://[^/\s\pC]+[^\s\pC]*$`)
	sha256Pattern      = regexp.MustCompile(`^[0-9a-f]{64}$`)
	compressionPattern = regexp.MustCompile(`^(none|lz4|lz4hc(,([0-9]|1[0-2]))?|zstd(,([0-9]|1[0-9]|2[0-2]))?)$`)
)
