package protocol

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
	"unicode/utf16"
)

// Types of messages from listener to worker, WorkerMessage of ProcessChannel.cs.
const (
	NewJobRequest           = 1 // the body is a job message
	CancelRequest           = 2
	RunnerShutdown          = 3
	OperatingSystemShutdown = 4
)

// maxPipeBody is the most bytes of a body, StreamString.cs.
const maxPipeBody = 50_000_000

// WritePipe writes a message: type and length in bytes, 32 bits each with the
// lowest first, and the body in UTF-16 without a byte order mark.
func WritePipe(w io.Writer, kind int32, body string) error {
	units := utf16.Encode([]rune(body))
	message := binary.LittleEndian.AppendUint32(nil, uint32(kind))
	message = binary.LittleEndian.AppendUint32(message, uint32(2*len(units)))
	for _, u := range units {
		message = binary.LittleEndian.AppendUint16(message, u)
	}
	_, err := w.Write(message)
	return err
}

// ReadPipe reads the next message. The end of the pipe is none to the worker: it
// looks again, for ever (StreamString.cs).
func ReadPipe(r io.Reader) (kind int32, body string, err error) {
	r = patientReader{r}
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, "", err
	}
	length := binary.LittleEndian.Uint32(head[4:])
	if length > maxPipeBody || length%2 != 0 {
		return 0, "", fmt.Errorf("cannot read a message of %d bytes", length)
	}

	data := make([]byte, length)
	if _, err := io.ReadFull(r, data); err != nil {
		return 0, "", err
	}
	units := make([]uint16, length/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(data[2*i:])
	}
	return int32(binary.LittleEndian.Uint32(head[:4])), string(utf16.Decode(units)), nil
}

// patientReader reads again when it meets the end.
type patientReader struct{ io.Reader }

// readPause is how long the worker waits before it reads again.
const readPause = 100 * time.Millisecond

// Read implements io.Reader.
func (p patientReader) Read(b []byte) (int, error) {
	for {
		if n, err := p.Reader.Read(b); n > 0 || err != io.EOF {
			return n, err
		}
		time.Sleep(readPause)
	}
}
