package trial

import (
	"io"
	"sync"

	"github.com/mkappliance/mkappliance/internal/tail"
)

// console keeps the end of what the machine prints, and shows it meanwhile.
type console struct {
	kept tail.Buffer

	mu    sync.Mutex
	shown io.Writer // nil for nowhere
}

const consoleLimit = 64 << 10

func (c *console) show(w io.Writer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shown = w
}

// Write implements io.Writer.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept.Limit = consoleLimit
	if c.shown != nil {
		_, _ = c.shown.Write(p)
	}
	return c.kept.Write(p)
}
