package size

import (
	"errors"
	"strconv"
	"testing"
)

func TestParse(t *testing.T) {
	tests := []struct {
		summary       string
		text, allowed string
		want          int64
		err           error
	}{
		{summary: "smallest", text: "1K", allowed: "KMGT", want: 1024},
		{summary: "mebibytes", text: "512M", allowed: "MG", want: 512 << 20},
		{summary: "gibibytes", text: "2G", allowed: "MG", want: 2 << 30},
		{summary: "leading zeros", text: "007T", allowed: "KMGT", want: 7 << 40},
		{summary: "largest", text: "8388607T", allowed: "KMGT", want: 8388607 << 40},
		{summary: "unit of another caller", text: "1T", allowed: "MG", err: ErrSyntax},
		{summary: "nothing", text: "", allowed: "KMGT", err: ErrSyntax},
		{summary: "unit alone", text: "G", allowed: "KMGT", err: ErrSyntax},
		{summary: "no unit", text: "20", allowed: "KMGT", err: ErrSyntax},
		{summary: "small letter", text: "20g", allowed: "KMGT", err: ErrSyntax},
		{summary: "sign", text: "+1G", allowed: "KMGT", err: ErrSyntax},
		{summary: "fraction", text: "1.5G", allowed: "KMGT", err: ErrSyntax},
		{summary: "blank", text: "1 G", allowed: "KMGT", err: ErrSyntax},
		{summary: "digits of another script", text: "١G", allowed: "KMGT", err: ErrSyntax},
		{summary: "zero", text: "0G", allowed: "KMGT", err: ErrRange},
		{summary: "one beyond the largest", text: "8388608T", allowed: "KMGT", err: ErrRange},
		{summary: "wraps around to a positive number", text: "16777217T", allowed: "KMGT", err: ErrRange},
		{summary: "more digits than an int64", text: "99999999999999999999K", allowed: "KMGT", err: ErrRange},
	}
	for _, tt := range tests {
		t.Run(tt.summary, func(t *testing.T) {
			got, err := Parse(tt.text, tt.allowed)
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("Parse(%q) = %d, %v; want %d, %v", tt.text, got, err, tt.want, tt.err)
			}
		})
	}
}

// FuzzParse: a size that is read, divided by its unit, is the number written.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"1K", "8388607T", "16777217T", "0G", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := Parse(text, "KMGT")
		if err != nil {
			return
		}
		divisor := map[byte]int64{'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30, 'T': 1 << 40}[text[len(text)-1]]
		want, err := strconv.ParseInt(text[:len(text)-1], 10, 64)
		if err != nil || got%divisor != 0 || got/divisor != want {
			t.Errorf("Parse(%q) = %d", text, got)
		}
	})
}
