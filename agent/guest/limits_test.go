package guest

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLimits(t *testing.T) {
	for _, test := range []struct {
		summary string
		limits  Limits
		file    string
		want    string
	}{
		{summary: "memory", limits: Limits{Memory: 1 << 30}, file: "memory.max", want: "1073741824"},
		{summary: "memory, without swap", limits: Limits{Memory: 1 << 30}, file: "memory.swap.max", want: "0"},
		{summary: "processes", limits: Limits{Pids: 100}, file: "pids.max", want: "100"},
		{summary: "processors", limits: Limits{CPUs: 1.5}, file: "cpu.max", want: "150000 100000"},
		{summary: "less than the kernel takes", limits: Limits{CPUs: 0.001}, file: "cpu.max", want: "1000 100000"},
		{summary: "none", limits: Limits{}, file: "cpu.max", want: ""},
	} {
		t.Run(test.summary, func(t *testing.T) {
			// One file alone: a kernel may lack a controller, or the accounting of swap.
			name := filepath.Join(t.TempDir(), test.file)
			if err := os.WriteFile(name, nil, 0o644); err != nil {
				t.Fatal(err)
			}

			if err := test.limits.set(filepath.Dir(name)); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(name); err != nil || string(got) != test.want {
				t.Errorf("%s is %q, %v; want %q", test.file, got, err, test.want)
			}
		})
	}
}
