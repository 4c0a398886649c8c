package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

const module = "github.com/mkappliance/mkappliance/"

// rooms are the top-level directories that hold Go packages.
var rooms = []string{"agent", "ci", "cloud-init", "cmd", "image", "internal", "rootfs"}

// A ban keeps packages out of others: those beneath from may not import those beneath one of to, directly or through
// a package between. Paths are relative to the module, or whole.
type ban struct {
	from string
	to   []string
	why  string
}

var bans = []ban{
	{"agent", []string{"image", "rootfs", "cloud-init", "internal/spec", "internal/qemu", "cmd", "ci"},
		"the agent is what runs on the appliance: it imports nothing of the build"},
	{"image", []string{"agent", "cmd", "ci"}, "the build imports nothing of the agent"},
	{"rootfs", []string{"agent", "image", "cmd", "ci"}, "data flows from trees to disks"},
	{"cloud-init", []string{"agent", "image", "rootfs", "cmd", "ci"}, "a seed knows nothing of images"},
	{"internal", []string{"agent", "image", "rootfs", "cloud-init", "cmd", "ci"}, "internal/ imports no room"},
	{"cmd", []string{"ci"}, "the product knows no test double"},
	{"cmd/runner-agent", []string{"image", "rootfs", "cloud-init", "internal/spec"}, "the agent does not build"},
	{"cmd/runner-shim", []string{"github.com/spf13/cobra", "net/http", "crypto/tls"},
		"runner-shim starts with every step: a step pays for what it imports"},
}

// A goPackage is the part of the output of go list -json that checkImports uses.
type goPackage struct {
	ImportPath   string
	Deps         []string // all imports, those of imports included
	TestImports  []string
	XTestImports []string
}

// checkImports reports packages outside the rooms, and imports against the bans.
func checkImports([]string) ([]breach, error) {
	packages, err := listPackages()
	if err != nil {
		return nil, err
	}

	var breaches []breach
	for _, p := range packages {
		name := strings.TrimPrefix(p.ImportPath, module)
		for _, text := range importBreaches(name, p) {
			breaches = append(breaches, breach{file: name, line: 1, text: text})
		}
	}
	return breaches, nil
}

func listPackages() ([]goPackage, error) {
	out, err := output("go", "list", "-json=ImportPath,Deps,TestImports,XTestImports", "./...")
	if err != nil {
		return nil, err
	}

	var packages []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages, nil
		} else if err != nil {
			return nil, fmt.Errorf("cannot read the output of go list: %w", err)
		}
		packages = append(packages, p)
	}
}

// importBreaches returns a text for each rule that package p, at path name in the module, breaks.
func importBreaches(name string, p goPackage) []string {
	var texts []string
	if room, _, _ := strings.Cut(name, "/"); !slices.Contains(rooms, room) {
		texts = append(texts, fmt.Sprintf("package outside of the rooms %s", strings.Join(rooms, ", ")))
	}

	for _, b := range bans {
		if !beneath(name, b.from) {
			continue
		}
		for _, to := range b.to {
			if i := slices.IndexFunc(p.Deps, func(dep string) bool { return imports(dep, to) }); i >= 0 {
				texts = append(texts, fmt.Sprintf("imports %s: %s", p.Deps[i], b.why))
			}
			// Tests may use the doubles in ci/.
			tests := slices.Concat(p.TestImports, p.XTestImports)
			i := slices.IndexFunc(tests, func(dep string) bool { return imports(dep, to) })
			if i >= 0 && to != "ci" && name != "cmd/runner-shim" {
				texts = append(texts, fmt.Sprintf("its test imports %s: %s", tests[i], b.why))
			}
		}
	}
	return texts
}

// imports reports whether dep is to or beneath it; to is a path in the module or a whole import path.
func imports(dep, to string) bool {
	return beneath(dep, to) || beneath(dep, module+to)
}

func beneath(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}
