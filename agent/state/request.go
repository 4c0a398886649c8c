package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
	"github.com/mkappliance/mkappliance/internal/layout"
)

// RequestFile exists from the moment that a reset is asked for until it is done.
// The initrd makes a new machine id while it does.
const RequestFile = layout.State + "/reset.json"

// Request is a reset that the next boot makes.
type Request struct {
	Schema     int       `json:"schema"` // 1
	Time       time.Time `json:"time"`   // when it was asked for
	KeepConfig bool      `json:"keep_config,omitempty"`
}

const requestSchema = 1

// Ask writes a request, durably, in the system whose root directory is root.
func Ask(root string, r Request) error {
	r.Schema = requestSchema
	data, err := json.Marshal(r)
	if err == nil {
		err = atomicfile.Write(filepath.Join(root, RequestFile), append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot ask for a reset: %w", err)
	}
	return nil
}

// Asked returns the request of a system, or nil if there is none.
func Asked(root string) (*Request, error) {
	data, err := os.ReadFile(filepath.Join(root, RequestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	// The schema first: another may have fields of other types.
	var head struct{ Schema int }
	if err == nil {
		err = json.Unmarshal(data, &head)
	}
	if err == nil && head.Schema != requestSchema {
		err = fmt.Errorf("it has schema %d, this agent knows %d", head.Schema, requestSchema)
	}
	var r Request
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w; run 'runner-agent reset' again", RequestFile, err)
	}
	return &r, nil
}
