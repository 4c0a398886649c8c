package powercut

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// nextData returns the next part of a file that is not a hole, lseek(2). Beyond the
// last one it is empty.
func nextData(f *os.File, from int64) (start, end int64, err error) {
	start, err = unix.Seek(int(f.Fd()), from, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		info, err := f.Stat()
		if err != nil {
			return 0, 0, err
		}
		return info.Size(), info.Size(), nil
	}
	if err != nil {
		return 0, 0, err
	}
	end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
	return start, end, err
}

// CopySparse copies a file without its holes to a new one of a size, in bytes, that
// is at least as large.
func CopySparse(from *os.File, to string, size int64) error {
	info, err := from.Stat()
	if err != nil {
		return fmt.Errorf("cannot copy disk: %w", err)
	}
	if err := copySparse(from, part{size: info.Size()}, to, size); err != nil {
		return fmt.Errorf("cannot copy disk: %w", err)
	}
	return nil
}

// copySparse copies a part of a file.
func copySparse(from *os.File, p part, to string, size int64) error {
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := out.Truncate(size); err != nil {
		return err
	}

	end := p.offset + p.size
	for at := p.offset; at < end; {
		dataStart, dataEnd, err := nextData(from, at)
		if err != nil {
			return err
		}
		dataStart, dataEnd = min(dataStart, end), min(dataEnd, end)
		content := io.NewSectionReader(from, dataStart, dataEnd-dataStart)
		if _, err := io.Copy(io.NewOffsetWriter(out, dataStart-p.offset), content); err != nil {
			return err
		}
		at = dataEnd
	}
	return out.Close()
}
