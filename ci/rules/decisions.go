package main

import (
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
)

const decisionsDir = "docs/decisions"

var (
	decisionName = regexp.MustCompile(`^(\d{4})-[a-z0-9-]+\.md$`)
	decisionHead = regexp.MustCompile(`^# (\d+)\. (.+)\n\n` +
		`Status: (?:accepted|rejected|superseded by \[\d+\]\(\d{4}-[a-z0-9-]+\.md\))\nDate: \d{4}-\d{2}-\d{2}\n\n`)
	decisionParts = []string{"**Context.**", "**Decision.**", "**Consequences.**"}
)

// checkDecisions reports decisions whose form differs from that in docs/decisions/README.md, and those that its index
// does not list.
func checkDecisions(files []string) ([]breach, error) {
	indexFile := path.Join(decisionsDir, "README.md")
	index, err := os.ReadFile(indexFile)
	if err != nil {
		return nil, err
	}

	var breaches []breach
	number := 0
	for _, file := range slices.Sorted(slices.Values(files)) {
		if path.Dir(file) != decisionsDir || file == indexFile {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		number++
		for _, fault := range decisionFaults(path.Base(file), string(text), number, string(index)) {
			breaches = append(breaches, breach{file, 1, fault})
		}
	}
	return breaches, nil
}

// decisionFaults returns the faults of a decision: name is its file's, number the place in the order of files.
func decisionFaults(name, text string, number int, index string) []string {
	if m := decisionName.FindStringSubmatch(name); m == nil || m[1] != fmt.Sprintf("%04d", number) {
		return []string{fmt.Sprintf("its name must be %04d-WORDS.md", number)}
	}
	head := decisionHead.FindStringSubmatch(text)
	if head == nil || head[1] != fmt.Sprint(number) {
		return []string{fmt.Sprintf(`it must start with "# %d. TITLE", Status: and Date:, as README.md shows`, number)}
	}

	var faults []string
	for _, part := range decisionParts {
		if !strings.Contains(text, "\n\n"+part) {
			faults = append(faults, fmt.Sprintf("it has no paragraph that starts with %s", part))
		}
	}
	if row := fmt.Sprintf("| [%d](%s) | %s |", number, name, head[2]); !strings.Contains(index, row) {
		faults = append(faults, fmt.Sprintf("README.md does not list it: add the row %q", row))
	}
	return faults
}
