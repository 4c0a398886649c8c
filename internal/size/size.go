// Package size reads sizes of memory, disks and files as people write them: a
// whole number and a unit, "512M".
package size

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// Errors of Parse. They name what is wrong; the caller adds the fix, because
// it knows its units.
var (
	ErrSyntax = errors.New("is not a size")
	ErrRange  = errors.New("is out of range")
)

// units are the suffixes of powers of 1024, from 1024 itself.
const units = "KMGT"

// Parse returns the number of bytes that text stands for: decimal digits and
// one of the allowed units, some of "KMGT", which are powers of 1024. The error
// is ErrSyntax, or ErrRange for 0 and for more than an int64 holds.
func Parse(text, allowed string) (int64, error) {
	if text == "" {
		return 0, ErrSyntax
	}
	digits, unit := text[:len(text)-1], text[len(text)-1:]
	if digits == "" || strings.Trim(digits, "0123456789") != "" || !strings.Contains(allowed, unit) {
		return 0, ErrSyntax
	}

	shift := 10 * (1 + strings.Index(units, unit))
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n == 0 || n > math.MaxInt64>>shift {
		return 0, ErrRange
	}
	return n << shift, nil
}
