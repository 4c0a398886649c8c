package main

import (
	"os"
	"strings"
)

const packagesPage = "docs/develop.md"

// checkPackages reports packages of the product that docs/develop.md does not describe.
func checkPackages([]string) ([]breach, error) {
	packages, err := listPackages()
	if err != nil {
		return nil, err
	}
	page, err := os.ReadFile(packagesPage)
	if err != nil {
		return nil, err
	}

	var breaches []breach
	for _, p := range packages {
		name := strings.TrimPrefix(p.ImportPath, module)
		if !beneath(name, "ci") && !strings.Contains(string(page), "`"+name+"`") {
			breaches = append(breaches, breach{packagesPage, 1, "describe package `" + name + "`"})
		}
	}
	return breaches, nil
}
