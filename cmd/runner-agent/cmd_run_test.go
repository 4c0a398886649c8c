package main

import (
	"maps"
	"testing"
)

func TestParseEnv(t *testing.T) {
	tests := []struct {
		assignments []string
		want        map[string]string
		err         string
	}{
		{nil, map[string]string{}, ""},
		{[]string{"A=b=c", "E=", "A=d"}, map[string]string{"A": "d", "E": ""}, ""},
		{[]string{"A"}, nil, `cannot set variable: --env "A"; want NAME=VALUE`},
		{[]string{"=b"}, nil, `cannot set variable: --env ""; want NAME=VALUE`},
	}
	for _, tt := range tests {
		got, err := parseEnv(tt.assignments)
		message := ""
		if err != nil {
			message = err.Error()
		}
		if !maps.Equal(got, tt.want) || message != tt.err {
			t.Errorf("parseEnv(%q) is %v, %q", tt.assignments, got, message)
		}
	}
}
