// Package files reads and writes the files in the actions runner's directory.
package files

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/ci/protocol"
	"github.com/mkappliance/mkappliance/ci/stubrunner/internal/api"
)

// Root is the runner's directory: the parent of the one that holds the running
// program, symbolic links resolved, as the real runner finds it.
type Root string

// FindRoot returns the runner's directory.
func FindRoot() (Root, error) {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return "", fmt.Errorf("cannot find the runner's directory: %w", err)
	}
	return Root(filepath.Dir(filepath.Dir(self))), nil
}

// Path returns the path of a file in the runner's directory.
func (r Root) Path(name string) string { return filepath.Join(string(r), name) }

// Configured reports whether the runner is registered.
func (r Root) Configured() bool {
	_, err := os.Stat(r.Path(".runner"))
	return !errors.Is(err, os.ErrNotExist)
}

// Settings is the file .runner.
type Settings struct {
	IsHostedServer     bool   `json:"isHostedServer"`
	AgentID            int    `json:"agentId"`
	AgentName          string `json:"agentName"`
	PoolID             int    `json:"poolId"`
	PoolName           string `json:"poolName"`
	DisableUpdate      bool   `json:"disableUpdate"`
	Ephemeral          bool   `json:"ephemeral,omitempty"`
	ServerURL          string `json:"serverUrl"`
	GitHubURL          string `json:"gitHubUrl"`
	WorkFolder         string `json:"workFolder"` // absolute, or relative to the runner's directory
	UseV2Flow          bool   `json:"useV2Flow"`
	UseRunnerAdminFlow bool   `json:"useRunnerAdminFlow"`
	ServerURLV2        string `json:"serverUrlV2"`
}

// Settings reads .runner.
func (r Root) Settings() (s Settings, err error) {
	err = LoadJSON(r.Path(".runner"), &s)
	return s, err
}

// Work returns the absolute path of the work folder.
func (r Root) Work(s Settings) string {
	if filepath.IsAbs(s.WorkFolder) {
		return s.WorkFolder
	}
	return r.Path(s.WorkFolder)
}

// Credentials is the file .credentials.
type Credentials struct {
	Scheme string         `json:"scheme"`
	Data   CredentialData `json:"data"`
}

// CredentialData is what Credentials hold for the scheme OAuth.
type CredentialData struct {
	ClientID         string `json:"clientId"`
	AuthorizationURL string `json:"authorizationUrl"`
	RequireFIPS      string `json:"requireFipsCryptography"` // "True" or "False"
}

// SaveJSON writes as IOUtil.SaveObject does: indented, with a byte order mark,
// and not atomically.
func SaveJSON(path string, v any, perm os.FileMode) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, append([]byte(protocol.ByteOrderMark), data...), perm); err != nil {
		return api.Errorf("Access to the path '%s' is denied. %v", path, err)
	}
	return os.Chmod(path, perm)
}

// LoadJSON reads what SaveJSON has written.
func LoadJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(strings.TrimPrefix(string(data), protocol.ByteOrderMark)), v)
}

// OpenLog opens the log of a program, "Runner" or "Worker", in _diag, which it
// makes. The real programs do not start without one.
func (r Root) OpenLog(program string) (*os.File, error) {
	if err := os.MkdirAll(r.Path("_diag"), 0o755); err != nil {
		return nil, fmt.Errorf("cannot open the log: %w", err)
	}
	name := fmt.Sprintf("_diag/%s_%s-utc.log", program, time.Now().UTC().Format("20060102-150405"))
	f, err := os.OpenFile(r.Path(name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cannot open the log: %w", err)
	}
	return f, nil
}
