package dockeropts

import "strings"

// Sets of characters that the names in options consist of.
const (
	digits       = "0123456789"
	letters      = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	alphanumeric = letters + digits
)

// isWord reports whether s starts with a character of first and has only
// characters of rest after it. Regular expressions say the same, but compiling
// them costs most of a millisecond whenever a program with this package starts.
func isWord(s, first, rest string) bool {
	return s != "" && strings.IndexByte(first, s[0]) >= 0 && strings.Trim(s[1:], rest) == ""
}

// isLabel reports whether s is a label of RFC 1123.
func isLabel(s string) bool {
	return len(s) <= 63 && isWord(s, alphanumeric, alphanumeric+"-") && !strings.HasSuffix(s, "-")
}

// isHostname reports whether s is a host name of RFC 1123 that
// sethostname(2) takes.
func isHostname(s string) bool {
	const limit = 63 // of docker-create(1), one less than HOST_NAME_MAX
	return len(s) <= limit && eachPart(s, ".", isLabel)
}

// isName reports whether s is a host name, in which underscores are allowed as
// well: containers have them in their names, and hosts(5) takes them.
func isName(s string) bool {
	const limit = 253 // RFC 1035
	return len(s) <= limit && eachPart(s, ".", func(part string) bool {
		return len(part) <= 63 && isWord(part, alphanumeric+"_", alphanumeric+"_-")
	})
}

// isAccountName reports whether s can be the name of a user or a group.
func isAccountName(s string) bool {
	return len(s) <= 32 && isWord(s, letters+"_", alphanumeric+"_.-")
}

// isDevice reports whether s is a clean path beneath /dev.
func isDevice(s string) bool {
	name, ok := strings.CutPrefix(s, "/dev/")
	return ok && eachPart(name, "/", func(part string) bool {
		return isWord(part, alphanumeric+"_", alphanumeric+"_.,+@-")
	})
}

func eachPart(s, separator string, ok func(part string) bool) bool {
	for part := range strings.SplitSeq(s, separator) {
		if !ok(part) {
			return false
		}
	}
	return true
}
