package spec

import (
	"fmt"
	"reflect"
	"strings"
)

// SetRunner returns the content of an images.toml with another actions runner in
// one image. Everything else stays as it is, comments included. The image must
// have its runner from a URL. The path is that of the file, as for Parse.
func SetRunner(path string, data []byte, image string, c Component) ([]byte, error) {
	before, err := Parse(path, data)
	if err != nil {
		return nil, err
	}
	img, err := before.Image(image)
	if err != nil {
		return nil, err
	}

	lines := strings.SplitAfter(string(data), "\n")
	index := indexLines(strings.TrimPrefix(string(data), "\ufeff"))
	table := dotted(dotted("image", image), "runner")
	for _, v := range []struct{ key, old, new string }{
		{"version", img.Runner.Version, c.Version},
		{"url", img.Runner.URL, c.URL},
		{"sha256", img.Runner.SHA256, c.SHA256},
	} {
		line := &lines[index.of(dotted(table, v.key))-1]
		*line = strings.Replace(*line, `"`+v.old+`"`, `"`+v.new+`"`, 1)
	}

	// The values may be written in a way that the lines above do not know.
	changed := []byte(strings.Join(lines, ""))
	after, err := Parse(path, changed)
	if err == nil {
		img.Runner = c
		if !reflect.DeepEqual(before, after) {
			err = fmt.Errorf("%s:%d: the lines of the runner are written in an unusual way", path, index.of(table))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w; set version, url and sha256 by hand", err)
	}
	return changed, nil
}
