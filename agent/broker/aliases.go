package broker

import (
	"fmt"
	"slices"

	"github.com/mkappliance/mkappliance/agent/dockeropts"
)

// aliases are the names on a job's network that services have.
type aliases map[string]bool

// assign returns the names of a service: those its options ask for, its host
// name, and that of its image, with a number behind it if that name is taken.
func (a aliases) assign(c containerSpec) []string {
	var names []string
	for _, name := range append(slices.Clone(c.options.Aliases), c.options.Hostname) {
		if name != "" && !slices.Contains(names, name) {
			a[name] = true
			names = append(names, name)
		}
	}

	base := dockeropts.Alias(c.Image)
	alias := base
	for i := 2; a[alias] && !slices.Contains(names, alias); i++ {
		alias = fmt.Sprintf("%s-%d", base, i)
	}
	if base != "" && !slices.Contains(names, alias) {
		a[alias] = true
		names = append(names, alias)
	}
	return names
}
