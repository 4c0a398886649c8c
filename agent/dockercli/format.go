package dockercli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"
)

// newTemplate parses a value of --format, with the functions that docker has.
func newTemplate(text string) (*template.Template, error) {
	t, err := template.New("").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			data, err := json.Marshal(v)
			return string(data), err
		},
		"join":     strings.Join,
		"lower":    strings.ToLower,
		"upper":    strings.ToUpper,
		"split":    strings.Split,
		"truncate": func(s string, n int) string { return s[:min(n, len(s))] },
	}).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("cannot parse --format: %w", err)
	}
	return t, nil
}

// printEach writes one line for each item, by a template.
func printEach[T any](w io.Writer, text string, items []T) error {
	if text == "json" {
		text = "{{json .}}"
	}
	t, err := newTemplate(text)
	if err != nil {
		return err
	}
	for _, item := range items {
		if err := t.Execute(w, item); err != nil {
			return fmt.Errorf("cannot print by --format: %w", err)
		}
		fmt.Fprintln(w)
	}
	return nil
}

// printTable writes rows in columns, below a header.
func printTable(w io.Writer, header []string, rows [][]string) error {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, strings.Join(header, "\t"))
	for _, row := range rows {
		fmt.Fprintln(table, strings.Join(row, "\t"))
	}
	return table.Flush()
}
