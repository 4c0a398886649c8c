package dockeropts

import "strings"

// Alias returns the name under which a service is reached when its options name
// none: the name of its image without registry, path, tag and digest. The
// result is a name for hosts(5), or empty if the image's name is not one. The actions
// runner does not pass the name of the service itself to a hook.
func Alias(image string) string {
	image, _, _ = strings.Cut(image, "@")
	base, _, _ := strings.Cut(image[strings.LastIndexByte(image, '/')+1:], ":")
	if !isName(base) {
		return ""
	}
	return base
}
