package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestTroubleshootQuotesMessages holds docs/troubleshoot.md to the code. A code
// span with a blank in it, in the first column of the table, is a message of
// ours: its words stand in this order in one string of the product. "..." and
// words in capitals stand for anything.
func TestTroubleshootQuotesMessages(t *testing.T) {
	page, err := os.ReadFile("../../docs/troubleshoot.md")
	if err != nil {
		t.Fatal(err)
	}
	texts := productStrings(t, "../..")
	rows := map[string]string{}

	quoted := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		for _, span := range codeSpan.FindAllStringSubmatch(cells[1], -1) {
			if !strings.Contains(span[1], " ") {
				continue // a unit, a key, a file
			}
			quoted++
			message := placeholder.ReplaceAllString(span[1], "...")
			if first, ok := rows[message]; ok {
				t.Errorf("two rows explain `%s`:\n%s%s", message, first, line)
			}
			rows[message] = line
			if !occurs(message, texts) {
				t.Errorf("no string of the product has `%s`", span[1])
			}
		}
	}
	if quoted < 10 {
		t.Errorf("found %d messages; does the page still quote them in its first column?", quoted)
	}
}

var (
	codeSpan    = regexp.MustCompile("`([^`]+)`")
	placeholder = regexp.MustCompile(`\.\.\.|\b[A-Z]{4,}\b`)
	verb        = regexp.MustCompile(`%[-+#0-9.]*[a-z]`)
)

// occurs reports whether the words of message stand in this order in one text.
func occurs(message string, texts []string) bool {
	var parts []string
	for _, part := range strings.Split(message, "...") {
		parts = append(parts, regexp.QuoteMeta(strings.TrimSpace(part)))
	}
	pattern := regexp.MustCompile("(?s)" + strings.Join(parts, ".*"))
	for _, text := range texts {
		if pattern.MatchString(text) {
			return true
		}
	}
	return false
}

// productStrings returns the strings of the product's Go files, with those that
// are added up as one and every formatting verb as "...".
func productStrings(t *testing.T, root string) []string {
	t.Helper()
	var texts []string
	for _, room := range []string{"agent", "cmd", "image", "internal", "rootfs"} {
		err := filepath.WalkDir(filepath.Join(root, room), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}

			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				e, ok := n.(ast.Expr)
				if !ok {
					return true
				}
				text, ok := fold(e)
				if ok {
					texts = append(texts, verb.ReplaceAllString(text, "..."))
				}
				return !ok
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return texts
}

// fold returns the text of a string literal, or of a sum that begins or ends
// with one.
func fold(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind != token.STRING {
			return "", false
		}
		text, err := strconv.Unquote(e.Value)
		return text, err == nil
	case *ast.BinaryExpr:
		if e.Op != token.ADD {
			return "", false
		}
		left, okLeft := fold(e.X)
		right, okRight := fold(e.Y)
		if !okLeft {
			left = "..."
		}
		if !okRight {
			right = "..."
		}
		return left + right, okLeft || okRight
	}
	return "", false
}

// TestSecureNamesTests: the tests that docs/secure.md names exist.
func TestSecureNamesTests(t *testing.T) {
	page, err := os.ReadFile("../../docs/secure.md")
	if err != nil {
		t.Fatal(err)
	}
	files := testFiles(t, "../..")

	named := regexp.MustCompile("`(Test[A-Za-z0-9]+)(?:/([A-Za-z0-9]+))?`").FindAllStringSubmatch(string(page), -1)
	for _, name := range named {
		found := false
		for _, text := range files {
			found = found || strings.Contains(text, "func "+name[1]+"(") &&
				(name[2] == "" || strings.Contains(text, `"`+name[2]+`"`))
		}
		if !found {
			t.Errorf("there is no test %s", strings.Trim(name[0], "`"))
		}
	}
	if len(named) < 30 {
		t.Errorf("found %d names of tests; does the page still quote them?", len(named))
	}
}

// testFiles returns the contents of all Go tests.
func testFiles(t *testing.T, root string) []string {
	t.Helper()
	var texts []string
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		texts = append(texts, string(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return texts
}
