package spec

import (
	"fmt"
	"regexp"

	"github.com/mkappliance/mkappliance/internal/layout"
)

var (
	// Neither '_' nor '+' nor '-': they separate name, version and boot counter.
	versionPattern = regexp.MustCompile(`^[0-9][0-9a-zA-Z.~^]*$`)
	namePattern    = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)
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

// CheckVersion returns an error for an image version that does not fit into file
// names and partition labels.
func CheckVersion(version string) error {
	if len(version) > layout.MaxVersion {
		return fmt.Errorf("version %q is too long for a partition label; use at most %d characters",
			version, layout.MaxVersion)
	}
	if !versionPattern.MatchString(version) {
		return fmt.Errorf("version %q does not begin with a digit or has characters other than "+
			"letters, digits and '.~^'; use one like \"1.4.0\"", version)
	}
	return nil
}
