// Rules checks the house rules that golangci-lint cannot check: which room imports which, the table of packages in
// docs/develop.md, paragraphs in long functions, the words of docs/STYLE.md, and the index of decisions.
//
//	go run ./ci/rules [imports] [packages] [paragraphs] [prose] [decisions]
//
// Without arguments it runs them all. It prints one line for each breach, FILE:LINE: TEXT, and ends with status 1 if
// there is one.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// A breach is one place where a rule does not hold.
type breach struct {
	file string
	line int // from 1
	text string
}

// A check looks at files, the paths that git knows, relative to the current directory.
type check struct {
	name string
	run  func(files []string) ([]breach, error)
}

var checks = []check{
	{"imports", checkImports},
	{"packages", checkPackages},
	{"paragraphs", checkParagraphs},
	{"prose", checkProse},
	{"decisions", checkDecisions},
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("ci/rules: ")

	breaches, err := runChecks(os.Args[1:])
	if err != nil {
		log.Fatal(err)
	}

	for _, b := range breaches {
		fmt.Printf("%s:%d: %s\n", b.file, b.line, b.text)
	}
	if len(breaches) > 0 {
		log.Fatalf("%d breaches of the house rules", len(breaches))
	}
}

// runChecks runs the named checks, or all of them if names is empty.
func runChecks(names []string) ([]breach, error) {
	for _, name := range names {
		if !slices.ContainsFunc(checks, func(c check) bool { return c.name == name }) {
			return nil, fmt.Errorf("there is no check %q", name)
		}
	}
	files, err := trackedFiles()
	if err != nil {
		return nil, err
	}

	var breaches []breach
	for _, c := range checks {
		if len(names) > 0 && !slices.Contains(names, c.name) {
			continue
		}
		found, err := c.run(files)
		if err != nil {
			return nil, fmt.Errorf("cannot check %s: %w", c.name, err)
		}
		breaches = append(breaches, found...)
	}
	return breaches, nil
}

// trackedFiles returns the regular files that git tracks, or would if they were added.
func trackedFiles() ([]string, error) {
	out, err := output("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	if err != nil {
		return nil, err
	}

	var files []string
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		// A file that was removed but not yet committed is still listed.
		if info, err := os.Lstat(name); err == nil && info.Mode().IsRegular() {
			files = append(files, name)
		}
	}
	return files, nil
}

// output returns what a program prints; its error holds what the program printed to standard error.
func output(name string, args ...string) ([]byte, error) {
	out, err := exec.Command(name, args...).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, fmt.Errorf("cannot run %s %s: %w: %s", name, args[0], err, bytes.TrimSpace(exit.Stderr))
	}
	return out, err
}
