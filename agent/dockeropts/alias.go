package dockeropts

import (
	"regexp"
	"strings"
)

var labelPattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// Alias is the name by which a service is reached when it has no other: its
// image's, without registry, path, tag and digest. It is a label of RFC 1123, or
// empty if the image's name is none. The runner does not tell a hook what the
// workflow calls a service.
func Alias(image string) string {
	image, _, _ = strings.Cut(image, "@")
	base, _, _ := strings.Cut(image[strings.LastIndexByte(image, '/')+1:], ":")
	if !labelPattern.MatchString(base) {
		return ""
	}
	return base
}
