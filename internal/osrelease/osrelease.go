// Package osrelease reads os-release(5), which names the system of a tree and
// what an image was made from.
package osrelease

import (
	"os"
	"strings"
)

// Read returns the assignments of a root's os-release(5), none if there is no
// such file. Quotes are taken off; the images' values hold no others.
func Read(root string) map[string]string {
	tree, err := os.OpenRoot(root)
	if err != nil {
		return nil
	}
	defer tree.Close()
	data, err := tree.ReadFile("usr/lib/os-release")
	if err != nil {
		return nil
	}

	return Parse(data)
}

// Parse returns the assignments of the content of an os-release(5), with quotes
// taken off.
func Parse(data []byte) map[string]string {
	release := map[string]string{}
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		release[key] = strings.Trim(value, `"`)
	}
	return release
}
