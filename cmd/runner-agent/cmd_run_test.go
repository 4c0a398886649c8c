package main

import (
	"maps"
	"testing"
)

func TestParseEnv(t *testing.T) {
	tests := []struct {
		summary     string
		assignments []string
		want        map[string]string
		err         string
	}{
		{summary: "none", assignments: nil, want: map[string]string{}},
		{summary: "set twice", assignments: []string{"A=b=c", "E=", "A=d"}, want: map[string]string{"A": "d", "E": ""}},
		{summary: "no value", assignments: []string{"A"}, err: `cannot set variable: --env "A"; want NAME=VALUE`},
		{summary: "no name", assignments: []string{"=b"}, err: `cannot set variable: --env ""; want NAME=VALUE`},
	}
	for _, tt := range tests {
		got, err := parseEnv(tt.assignments)
		message := ""
		if err != nil {
			message = err.Error()
		}
		if !maps.Equal(got, tt.want) || message != tt.err {
			t.Errorf("%s: parseEnv(%q) is %v, %q", tt.summary, tt.assignments, got, message)
		}
	}
}
