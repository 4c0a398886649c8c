package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

const maxColumns = 120

// A wording is a habit of speech that docs/STYLE.md rules out.
type wording struct {
	pattern *regexp.Regexp
	except  *regexp.Regexp // of what pattern matched; nil for none
	advice  string
}

var wordings = []wording{
	{
		pattern: regexp.MustCompile(`(?i)\b(?:there )?(?:is|are|was|were) no(?: longer| more)?\b`),
		except:  regexp.MustCompile(`(?i)^there |(?:longer|more)$`),
		advice:  `write "is not a"`,
	},
	{
		pattern: regexp.MustCompile(`\bgives\b`),
		advice:  `write "returns", or the field's verb`,
	},
	{
		pattern: regexp.MustCompile(`\btells\b`),
		advice:  `write "reports whether", or "distinguishes"`,
	},
	{
		pattern: regexp.MustCompile(`(?i)\bname spaces?\b`),
		advice:  `write "namespace"`,
	},
	{
		pattern: regexp.MustCompile(`\b(?:lays|laid anew|parted by|takes orders|thrown? away)\b`),
		advice:  `write the field's verb: writes, rebuilt, separated by, is ready, removed`,
	},
	{
		// Questions may.
		pattern: regexp.MustCompile(`(?:^|[.!:;] )(?:What|Whoever|Of) [^.?]*[.?]?`),
		except:  regexp.MustCompile(`\?$`),
		advice:  `do not open a sentence with What, Whoever or Of: name the one who acts`,
	},
}

// A passage is text to be read as a whole: a comment, a paragraph, a string.
type passage struct {
	line int // of its first line, from 1
	text string
}

// checkProse reports wordings and overlong lines in documentation, comments and messages.
func checkProse(files []string) ([]breach, error) {
	var breaches []breach
	for _, file := range files {
		if strings.Contains(file, "testdata/") || file == "LICENSE" || strings.HasPrefix(file, "ci/rules/") {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		text := string(data)

		switch {
		case path.Ext(file) == ".md":
			// The style page quotes what it forbids, in tables and quotes.
			if file != "docs/STYLE.md" {
				breaches = append(breaches, spoken(file, markdownPassages(text))...)
			}
			breaches = append(breaches, longLines(file, text)...)
		case path.Ext(file) == ".go":
			passages, err := goPassages(file, data)
			if err != nil {
				return nil, err
			}
			breaches = append(breaches, spoken(file, passages)...)
		case isHashCommented(file, text):
			breaches = append(breaches, spoken(file, hashPassages(text))...)
			breaches = append(breaches, longLines(file, text)...)
		}
	}
	return breaches, nil
}

// spoken returns a breach for each wording in passages.
func spoken(file string, passages []passage) []breach {
	var breaches []breach
	for _, p := range passages {
		// A wording may run over the end of a line: a blank of the same length takes its place.
		flat := strings.ReplaceAll(p.text, "\n", " ")
		for _, w := range wordings {
			for _, at := range w.pattern.FindAllStringIndex(flat, -1) {
				found := flat[at[0]:at[1]]
				if w.except != nil && w.except.MatchString(found) {
					continue
				}
				line := p.line + strings.Count(p.text[:at[0]], "\n")
				breaches = append(breaches, breach{file, line, strconv.Quote(shorten(found)) + ": " + w.advice})
			}
		}
	}
	return breaches
}

func shorten(s string) string {
	if len(s) > 40 {
		return s[:37] + "..."
	}
	return s
}

var inlineCode = regexp.MustCompile("`[^`\n]*`")

// markdownPassages returns the paragraphs, list items and table rows of a page, without headings and code.
func markdownPassages(text string) []passage {
	var passages []passage
	fenced, fresh := false, true
	for i, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(line)
		if strings.HasPrefix(trimmed, "```") {
			fenced, fresh = !fenced, true
			continue
		}
		// An indented line after a blank one is code, or goes on with a list item: in doubt it is code.
		isCode := fenced || (strings.HasPrefix(line, "    ") && fresh)
		if trimmed == "" || isCode || strings.HasPrefix(line, "#") {
			fresh = true
			continue
		}

		isItem := strings.HasPrefix(trimmed, "- ") || strings.HasPrefix(trimmed, "* ") || strings.HasPrefix(line, "|")
		line = inlineCode.ReplaceAllStringFunc(strings.TrimLeft(trimmed, "-*| "), func(code string) string {
			return strings.Repeat("x", len(code))
		})
		if fresh || isItem {
			passages = append(passages, passage{line: i + 1, text: line})
		} else {
			passages[len(passages)-1].text += "\n" + line
		}
		fresh = false
	}
	return passages
}

// goPassages returns the comments and strings of a Go file. Strings of tests are left out: they quote.
func goPassages(file string, source []byte) ([]passage, error) {
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, file, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}

	var passages []passage
	for _, group := range parsed.Comments {
		var lines []string
		for _, c := range group.List {
			lines = append(lines, strings.TrimPrefix(strings.TrimPrefix(c.Text, "//"), " "))
		}
		passages = append(passages, passage{set.Position(group.Pos()).Line, strings.Join(lines, "\n")})
	}
	if strings.HasSuffix(file, "_test.go") {
		return passages, nil
	}

	ast.Inspect(parsed, func(n ast.Node) bool {
		literal, ok := n.(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			return true
		}
		if text, err := strconv.Unquote(literal.Value); err == nil {
			passages = append(passages, passage{set.Position(literal.Pos()).Line, text})
		}
		return true
	})
	return passages, nil
}

// isHashCommented reports whether a file's comments start with #: scripts, units, configuration.
func isHashCommented(file, text string) bool {
	switch path.Ext(file) {
	case ".sh", ".toml", ".service", ".socket", ".mount", ".conf", ".cfg", ".yml", ".yaml", ".preset":
		return true
	}
	return strings.HasPrefix(text, "#!") || path.Base(file) == "Makefile"
}

// hashPassages returns the comments of a file, where lines that follow each other are one.
func hashPassages(text string) []passage {
	var passages []passage
	fresh := true
	for i, line := range strings.Split(text, "\n") {
		comment, ok := strings.CutPrefix(strings.TrimSpace(line), "#")
		if !ok || strings.HasPrefix(comment, "!") {
			fresh = true
			continue
		}

		comment = strings.TrimPrefix(comment, " ")
		if fresh {
			passages = append(passages, passage{line: i + 1, text: comment})
		} else {
			passages[len(passages)-1].text += "\n" + comment
		}
		fresh = false
	}
	return passages
}

// longLines returns the lines of more than maxColumns, but for those of tables and those with an address.
func longLines(file, text string) []breach {
	var breaches []breach
	for i, line := range strings.Split(text, "\n") {
		isTable := strings.HasPrefix(line, "|")
		if n := utf8.RuneCountInString(line); n > maxColumns && !isTable && !strings.Contains(line, "://") {
			breaches = append(breaches, breach{file, i + 1, strconv.Itoa(n) + " columns; lines end at 120"})
		}
	}
	return breaches
}
