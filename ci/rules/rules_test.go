package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestImportBreaches(t *testing.T) {
	tests := []struct {
		summary string
		name    string
		pkg     goPackage
		want    string // part of the only breach; "" for none
	}{
		{
			summary: "a room uses internal/",
			name:    "agent/guest",
			pkg:     goPackage{Deps: []string{"os", module + "internal/run"}},
		},
		{
			summary: "the agent imports a build room",
			name:    "agent/guest",
			pkg:     goPackage{Deps: []string{module + "image"}},
			want:    "imports " + module + "image: the agent is what runs",
		},
		{
			summary: "the agent imports a package of a build room",
			name:    "agent/guest",
			pkg:     goPackage{Deps: []string{module + "image/layout"}},
			want:    "imports " + module + "image/layout",
		},
		{
			summary: "a name that only starts like a room",
			name:    "agent/guest",
			pkg:     goPackage{Deps: []string{module + "imagery"}},
		},
		{
			summary: "internal/ imports a room",
			name:    "internal/run",
			pkg:     goPackage{Deps: []string{module + "agent/wire"}},
			want:    "internal/ imports no room",
		},
		{
			summary: "trees import disks",
			name:    "rootfs",
			pkg:     goPackage{Deps: []string{module + "image"}},
			want:    "data flows",
		},
		{
			summary: "the product imports a double",
			name:    "cmd/mkappliance",
			pkg:     goPackage{Deps: []string{module + "ci/fakegithub"}},
			want:    "no test double",
		},
		{
			summary: "a test imports a double",
			name:    "agent/hook",
			pkg:     goPackage{TestImports: []string{module + "ci/miniworker"}},
		},
		{
			summary: "a test imports a build room",
			name:    "agent/hook",
			pkg:     goPackage{XTestImports: []string{module + "rootfs"}},
			want:    "its test imports",
		},
		{
			summary: "the shim imports a large library",
			name:    "cmd/runner-shim",
			pkg:     goPackage{Deps: []string{"github.com/spf13/cobra"}},
			want:    "a step pays",
		},
		{
			summary: "a room that is not one",
			name:    "utils",
			want:    "outside of the rooms",
		},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			got := importBreaches(test.name, test.pkg)
			if test.want == "" && len(got) > 0 {
				t.Errorf("got %q, want nothing", got)
			}
			if test.want != "" && (len(got) != 1 || !strings.Contains(got[0], test.want)) {
				t.Errorf("got %q, want one with %q", got, test.want)
			}
		})
	}
}

func TestWalls(t *testing.T) {
	statements := strings.Repeat("\tf()\n", maxParagraph+1)
	table := "\tx := []int{\n" + strings.Repeat("\t\t1,\n", maxLines) + "\t}\n"
	tests := []struct {
		summary string
		source  string
		want    int
	}{
		{"a wall", "func a() {\n" + statements + "}", 1},
		{"as long as may be", "func a() {\n" + strings.Repeat("\tf()\n", maxParagraph) + "}", 0},
		{"two paragraphs", "func a() {\n" + statements + "\n" + statements + "}", 0},
		{"one statement", "func a() {\n\tswitch x {\n" + strings.Repeat("\tcase 1:\n", maxParagraph) + "\t}\n}", 0},
		{"a table", "func a() {\n" + table + strings.Repeat("\tf()\n", minStatements) + "}", 0},
		{"a text", "func a() {\n\tx := `" + strings.Repeat("y\n", maxLines) + "`\n\tf()\n\tf()\n\tf()\n}", 0},
		{"too long", "func a() {\n" + strings.Repeat(statements+"\n", 3) + "}", 1},
		{"a literal", "var a = func() {\n" + statements + "}", 1},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			got, err := walls("a.go", []byte("package a\n\n"+test.source+"\n"))
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != test.want {
				t.Errorf("got %v, want %d", got, test.want)
			}
		})
	}
}

func TestSpoken(t *testing.T) {
	tests := []struct {
		summary string
		text    string
		want    []string // LINE "FOUND"
	}{
		{"plain", "open returns a file.\nIt is not a link. There is no other, and it is no longer there.", nil},
		{"is no", "one\nx is no number", []string{`2 "is no"`}},
		{"over the end of a line", "one\nx is\nno number", []string{`2 "is no"`}},
		{"gives and tells", "f gives x and tells y", []string{`1 "gives"`, `1 "tells"`}},
		{"name space", "a user name space", []string{`1 "name space"`}},
		{"an opening", "What is here is ours.", []string{`1 "What is here is ours."`}},
		{"an opening after a sentence", "It is.\nOf all, one.", []string{`1 ". Of all, one."`}},
		{"a question", "What is here?", nil},
		{"in a sentence", "It is what Whoever of old says.", nil},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			var got []string
			for _, b := range spoken("a", []passage{{1, test.text}}) {
				found, _, _ := strings.Cut(b.text, ": ")
				got = append(got, fmt.Sprintf("%d %s", b.line, found))
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestMarkdownPassages(t *testing.T) {
	text := `# What a heading may

One
two ` + "`gives`" + `.

    code gives

- item
  goes on
- item

| a | gives |

` + "```\ngives\n```\n"
	want := []passage{{3, "One\ntwo xxxxxxx."}, {8, "item\ngoes on"}, {10, "item"}, {12, "a | gives |"}}

	if got := markdownPassages(text); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestGoPassages(t *testing.T) {
	source := "// Package a\n// gives.\npackage a\n\nvar x = \"text\\n\"\n"
	want := []passage{{1, "Package a\ngives."}, {5, "text\n"}}

	got, err := goPassages("a.go", []byte(source))
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if got, err = goPassages("a_test.go", []byte(source)); err != nil || !slices.Equal(got, want[:1]) {
		t.Errorf("of a test: got %v, %v, want %v", got, err, want[:1])
	}
}

func TestHashPassages(t *testing.T) {
	want := []passage{{2, "One\ntwo."}, {5, "Three."}}
	if got := hashPassages("#!/bin/sh\n# One\n# two.\nset -eu\n# Three.\n"); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestLongLines(t *testing.T) {
	long := strings.Repeat("ö", maxColumns+1)
	text := strings.Join([]string{long[2:], long, "| " + long, long + "https://example.org"}, "\n")
	want := []breach{{"a", 2, "121 columns; lines end at 120"}}

	if got := longLines("a", text); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestDecisionFaults(t *testing.T) {
	const good = "# 2. A title\n\nStatus: accepted\nDate: 2026-11-23\n\n" +
		"**Context.** a\n\n**Decision.** b\n\n**Consequences.** c\n"
	const index = "| [2](0002-a.md) | A title | accepted |"
	tests := []struct {
		summary           string
		name, text, index string
		want              string // part of the only fault; "" for none
	}{
		{"good", "0002-a.md", good, index, ""},
		{"superseded", "0002-a.md", strings.Replace(good, "accepted", "superseded by [3](0003-b.md)", 1), index, ""},
		{"a gap", "0003-a.md", good, index, "its name must be 0002-WORDS.md"},
		{"another number", "0002-a.md", strings.Replace(good, "2.", "3.", 1), index, "must start with"},
		{"no date", "0002-a.md", strings.Replace(good, "Date", "When", 1), index, "must start with"},
		{"a part is missing", "0002-a.md", strings.Replace(good, "Decision", "Choice", 1), index, "**Decision.**"},
		{"not in the index", "0002-a.md", good, "", "README.md does not list it"},
		{"another title", "0002-a.md", strings.Replace(good, "A title", "B", 1), index, "README.md does not list it"},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			got := decisionFaults(test.name, test.text, 2, test.index)
			if test.want == "" && len(got) > 0 {
				t.Errorf("got %q, want nothing", got)
			}
			if test.want != "" && (len(got) != 1 || !strings.Contains(got[0], test.want)) {
				t.Errorf("got %q, want one with %q", got, test.want)
			}
		})
	}
}
