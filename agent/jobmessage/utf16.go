package jobmessage

import (
	"encoding/binary"
	"io"
	"unicode/utf16"
	"unicode/utf8"
)

// utf16Reader reads text in UTF-16LE without byte order mark as UTF-8. Half a
// surrogate pair is read as U+FFFD, as StreamString.cs does.
type utf16Reader struct {
	r io.Reader

	in   [4096]byte
	left int    // bytes at the beginning of in: half a unit, or half a pair
	text []byte // decoded
	out  []byte // what of text is not yet read
	err  error  // for when out is read
}

func (u *utf16Reader) Read(p []byte) (int, error) {
	for len(u.out) == 0 {
		if u.err != nil {
			return 0, u.err
		}
		u.fill()
	}
	n := copy(p, u.out)
	u.out = u.out[n:]
	return n, nil
}

// fill decodes what comes next.
func (u *utf16Reader) fill() {
	n, err := u.r.Read(u.in[u.left:])
	u.err = err
	in := u.in[:u.left+n]
	u.text = u.text[:0]

	for len(in) >= 2 {
		r, size := rune(binary.LittleEndian.Uint16(in)), 2
		if utf16.IsSurrogate(r) {
			if len(in) < 4 && err == nil {
				break // the other half is still to come
			}
			high := r
			r = utf8.RuneError
			if len(in) >= 4 {
				if r = utf16.DecodeRune(high, rune(binary.LittleEndian.Uint16(in[2:]))); r != utf8.RuneError {
					size = 4
				}
			}
		}
		u.text = utf8.AppendRune(u.text, r)
		in = in[size:]
	}
	u.left = copy(u.in[:], in)
	u.out = u.text
}
