package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"strings"
)

const (
	maxLines      = 70 // of a body
	maxParagraph  = 25 // lines of a body that may do without a blank one
	minStatements = 4  // a body with fewer has no steps to separate
)

// checkParagraphs reports function bodies that are one unbroken wall, or too long.
func checkParagraphs(files []string) ([]breach, error) {
	var breaches []breach
	for _, file := range files {
		if path.Ext(file) != ".go" {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		found, err := walls(file, source)
		if err != nil {
			return nil, err
		}
		breaches = append(breaches, found...)
	}
	return breaches, nil
}

// walls returns the bodies in source that are longer than maxLines, or longer than maxParagraph without a blank line.
// Lines of composite literals and strings do not count: a test is as long as its table.
func walls(file string, source []byte) ([]breach, error) {
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, file, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	lines := bytes.Split(source, []byte("\n"))

	var breaches []breach
	ast.Inspect(parsed, func(n ast.Node) bool {
		body, name := functionBody(n)
		if body == nil || len(body.List) < minStatements {
			return true
		}

		first, last := set.Position(body.Lbrace).Line+1, set.Position(body.Rbrace).Line-1
		length := last - first + 1 - literalLines(set, body)
		switch {
		case length > maxLines:
			text := fmt.Sprintf("%s: %d lines: make functions of its steps", name, length)
			breaches = append(breaches, breach{file, first - 1, text})
		case length > maxParagraph && !hasBlank(lines[first-1:last]):
			text := fmt.Sprintf("%s: %d lines without a blank one: separate its steps", name, length)
			breaches = append(breaches, breach{file, first - 1, text})
		}
		return true
	})
	return breaches, nil
}

// functionBody returns the body and the name of the function that n declares, or nil.
func functionBody(n ast.Node) (*ast.BlockStmt, string) {
	switch f := n.(type) {
	case *ast.FuncDecl:
		return f.Body, f.Name.Name
	case *ast.FuncLit:
		return f.Body, "function literal"
	}
	return nil, ""
}

// literalLines returns how many lines of body are inside composite literals and strings.
func literalLines(set *token.FileSet, body *ast.BlockStmt) int {
	count := 0
	ast.Inspect(body, func(n ast.Node) bool {
		switch literal := n.(type) {
		case *ast.CompositeLit:
			count += set.Position(literal.Rbrace).Line - set.Position(literal.Lbrace).Line
			return false
		case *ast.BasicLit:
			count += strings.Count(literal.Value, "\n")
		}
		return true
	})
	return count
}

func hasBlank(lines [][]byte) bool {
	for _, line := range lines {
		if len(bytes.TrimSpace(line)) == 0 {
			return true
		}
	}
	return false
}
