package spec

import (
	"fmt"
	"regexp"
)

// maxVersion is what a GPT label of 36 characters leaves between "runner_" and
// "_verity".
const maxVersion = 36 - len("runner_") - len("_verity")

// CheckVersion refuses image versions that cannot stand in a file name or in a
// partition label.
func CheckVersion(version string) error {
	if len(version) > maxVersion {
		return fmt.Errorf("version %q is too long for a partition label; use at most %d characters", version, maxVersion)
	}
	// Neither '_' nor '+' nor '-': they part name, version and boot counter.
	if !regexp.MustCompile(`^[0-9][0-9a-zA-Z.~^]*$`).MatchString(version) {
		return fmt.Errorf("version %q does not begin with a digit or has characters other than letters, digits and '.~^'; use one like \"1.4.0\"", version)
	}
	return nil
}

func isName(s string) bool { return regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`).MatchString(s) }

// isPackageName follows Debian Policy, section 5.6.1.
func isPackageName(s string) bool { return regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`).MatchString(s) }

// isRunnerVersion allows what stands in os-release(5) without quotes.
func isRunnerVersion(s string) bool {
	return regexp.MustCompile(`^[0-9][0-9A-Za-z.+~-]*$`).MatchString(s)
}

// isURL asks no more than that a URL fits into one word of sources.list(5).
func isURL(s string) bool { return regexp.MustCompile(`^https?://[^/\s\pC]+[^\s\pC]*$`).MatchString(s) }

func isSHA256(s string) bool { return regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(s) }

func isCompression(s string) bool {
	return regexp.MustCompile(`^(none|lz4|lz4hc(,([0-9]|1[0-2]))?|zstd(,([0-9]|1[0-9]|2[0-2]))?)$`).MatchString(s)
}
