package cloudinit

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// yamlPlace separates line and text of an error of the YAML library.
var yamlPlace = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

// CheckUserData returns an error if cloud-init would ignore the user-data: it has
// no header, or is a cloud-config that is not a YAML mapping. On the machine that
// is only a line in cloud-init's log. A write_files that is not a list is refused
// too, since cloud-init could not add config.env to it. Messages begin with name
// and a line, as "users.yaml:3: ".
func CheckUserData(name string, userData []byte) error {
	switch contentType(userData) {
	case "":
		return fmt.Errorf("%s:1: user-data of this kind cannot be joined with config.env; "+
			"begin it with #cloud-config, or #! for a script", name)
	case cloudConfig:
	default:
		return nil
	}

	var document yaml.Node
	if err := yaml.Unmarshal(userData, &document); err != nil {
		return badYAML(name, err)
	}
	if document.Kind == 0 { // comments only
		return nil
	}
	top := document.Content[0]
	if top.Kind != yaml.MappingNode {
		return fmt.Errorf("%s:%d: a cloud-config is a mapping; write lines like 'users: ...'", name, top.Line)
	}

	// Only decoding finds duplicate keys.
	var settings map[string]any
	if err := top.Decode(&settings); err != nil {
		return badYAML(name, err)
	}

	for i := 0; i < len(top.Content); i += 2 {
		if key, value := top.Content[i], top.Content[i+1]; key.Value == "write_files" && !isList(value) {
			return fmt.Errorf("%s:%d: write_files is not a list, so config.env cannot be added to it; "+
				"list the files with '-', or remove it", name, key.Line)
		}
	}
	return nil
}

// isList reports whether a value is a sequence, or an alias of one.
func isList(value *yaml.Node) bool {
	if value.Kind == yaml.AliasNode {
		value = value.Alias
	}
	return value.Kind == yaml.SequenceNode
}

// badYAML turns an error of the YAML library into a message with a place.
func badYAML(name string, err error) error {
	var types *yaml.TypeError
	message := err.Error()
	if errors.As(err, &types) {
		message = "yaml: " + types.Errors[0]
	}
	line, what := "1", message
	if m := yamlPlace.FindStringSubmatch(message); m != nil {
		what = m[2]
		if m[1] != "" {
			line = m[1]
		}
	}
	// The line is where the broken list or mapping begins, or the one before.
	return fmt.Errorf("%s:%s: %s; correct the YAML from there on", name, line, what)
}

// cloudConfig is the MIME type of a cloud-config.
const cloudConfig = "text/cloud-config"

// contentType returns the MIME type of user-data by its first line ("User-data
// formats" in cloud-init's documentation), or "" if cloud-init knows none.
func contentType(userData []byte) string {
	line, _, _ := bytes.Cut(userData, []byte("\n"))
	first := strings.TrimSpace(string(line))
	for _, kind := range [][2]string{ // the longer of two first
		{"#cloud-config-archive", "text/cloud-config-archive"},
		{"#cloud-config-jsonp", "text/cloud-config-jsonp"},
		{"#cloud-config", cloudConfig},
		{"#cloud-boothook", "text/cloud-boothook"},
		{"#include-once", "text/x-include-once-url"},
		{"#include", "text/x-include-url"},
		{"#part-handler", "text/part-handler"},
		{"#!", "text/x-shellscript"},
		{"## template: jinja", "text/jinja2"},
	} {
		if strings.HasPrefix(first, kind[0]) {
			return kind[1]
		}
	}
	return ""
}
