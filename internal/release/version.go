package release

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"

	"github.com/mkappliance/mkappliance/internal/layout"
)

// versionPattern has neither '_' nor '+' nor '-': they separate name, version and
// boot counter.
var versionPattern = regexp.MustCompile(`^[0-9][0-9a-zA-Z.~^]*$`)

// CheckVersion returns an error for an image version that does not fit into file
// names and partition labels.
func CheckVersion(version string) error {
	if len(version) > layout.MaxVersion {
		return fmt.Errorf("version %.80q is too long for a partition label; use at most %d characters",
			version, layout.MaxVersion)
	}
	if !versionPattern.MatchString(version) {
		return fmt.Errorf("version %q does not begin with a digit or has characters other than "+
			"letters, digits and '.~^'; use one like \"1.4.0\"", version)
	}
	return nil
}

// Compare returns -1 if version a is older than b, 0 if they are equally new, and
// 1 if a is newer: the order in which systemd-boot sorts its entries (UAPI.10,
// https://uapi-group.org/specifications/specs/version_format_specification), so
// that appliance and boot loader agree on the newest version.
//
// Equally new versions may differ in their text, as 1.0 and 1.00 do.
func Compare(a, b string) int {
	for {
		a, b = strings.TrimLeftFunc(a, isSeparator), strings.TrimLeftFunc(b, isSeparator)

		// '~' is older than the end, and everything else is newer.
		if order, decided := compareMark(&a, &b, '~'); decided {
			return order
		}
		if a == "" || b == "" {
			return cmp.Compare(len(a), len(b))
		}
		for _, mark := range []byte{'-', '^', '.'} {
			if order, decided := compareMark(&a, &b, mark); decided {
				return order
			}
		}

		isPart := isLetter
		if startsWithDigit(a) || startsWithDigit(b) {
			isPart = isDigit
		}
		partA, partB := leading(&a, isPart), leading(&b, isPart)
		if order := compareParts(partA, partB); order != 0 {
			return order
		}
	}
}

// compareMark decides the order if one of the two begins with the mark: that one
// is older. If both do, it removes the mark.
func compareMark(a, b *string, mark byte) (order int, decided bool) {
	hasA, hasB := strings.HasPrefix(*a, string(mark)), strings.HasPrefix(*b, string(mark))
	switch {
	case hasA && hasB:
		*a, *b = (*a)[1:], (*b)[1:]
	case hasA:
		return -1, true
	case hasB:
		return 1, true
	}
	return 0, false
}

// leading cuts the part at the start of s whose characters are all of a kind.
func leading(s *string, kind func(byte) bool) string {
	n := 0
	for n < len(*s) && kind((*s)[n]) {
		n++
	}
	part := (*s)[:n]
	*s = (*s)[n:]
	return part
}

// compareParts compares two parts of digits by their numbers, or two of letters
// by their bytes. An empty part of digits is older than 0.
func compareParts(a, b string) int {
	if (a == "") != (b == "") {
		return cmp.Compare(len(a), len(b))
	}
	if startsWithDigit(a) {
		a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
		return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
	}
	return strings.Compare(a, b)
}

func startsWithDigit(s string) bool { return s != "" && isDigit(s[0]) }

func isDigit(c byte) bool  { return '0' <= c && c <= '9' }
func isLetter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

// isSeparator reports whether a character only separates parts.
func isSeparator(r rune) bool {
	return r >= 0x80 || !isDigit(byte(r)) && !isLetter(byte(r)) && !strings.ContainsRune("~-^.", r)
}
