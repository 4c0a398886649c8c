// Package actionsrunner asks GitHub for the releases of the actions runner.
package actionsrunner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/internal/arch"
)

// DefaultAPI is the address of GitHub's REST API.
const DefaultAPI = "https://api.github.com"

// Release is a published version of the actions runner.
type Release struct {
	Version   string // without the "v" of the tag
	Published time.Time
	assets    []asset
}

// Archive is the release for one architecture.
type Archive struct {
	URL    string
	SHA256 string // in lower-case hex
	Size   int64  // in bytes
}

// asset is a file of a release
// (https://docs.github.com/rest/releases/releases#get-the-latest-release).
type asset struct {
	Name   string `json:"name"`
	URL    string `json:"browser_download_url"`
	Digest string `json:"digest"` // "sha256:HEX"; GitHub computes it
	Size   int64  `json:"size"`
}

const (
	// patience bounds the whole request.
	patience = 30 * time.Second
	// MaxAnswer is far more than a release with its notes has, in bytes.
	MaxAnswer = 4 << 20
)

var (
	tagPattern    = regexp.MustCompile(`^v([0-9]+\.[0-9]+\.[0-9]+)$`)
	digestPattern = regexp.MustCompile(`^sha256:([0-9a-f]{64})$`)
)

// Newest asks the API for the newest release that is not a preview. The token may
// be empty: GitHub then answers 60 requests an hour for each address.
func Newest(ctx context.Context, api, token string) (*Release, error) {
	data, err := get(ctx, strings.TrimSuffix(api, "/")+ReleasesPath+"latest", token)
	if err != nil {
		return nil, fmt.Errorf("cannot find newest release of the actions runner: %w", err)
	}
	release, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("cannot find newest release of the actions runner: %w", err)
	}
	return release, nil
}

// ReleasesPath is the path of releases below the API's address. "latest" names the
// newest that is not a preview there, and "tags/vVERSION" a certain one.
const ReleasesPath = "/repos/actions/runner/releases/"

// Parse reads an answer of the API that describes a release.
func Parse(data []byte) (*Release, error) {
	var answer struct {
		Tag       string    `json:"tag_name"`
		Published time.Time `json:"published_at"`
		Assets    []asset   `json:"assets"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, err
	}
	tag := tagPattern.FindStringSubmatch(answer.Tag)
	if tag == nil {
		return nil, fmt.Errorf("its tag is %.80q, want vMAJOR.MINOR.PATCH", answer.Tag)
	}
	return &Release{Version: tag[1], Published: answer.Published, assets: answer.Assets}, nil
}

// NewestName returns the name that the signature of the newest archive has in a channel.
func NewestName(a arch.Arch) string { return "actions-runner-linux-" + a.ActionsRunner + ".minisig" }

var archivePattern = regexp.MustCompile(
	`^(actions-runner-linux-[a-z0-9]+)-([0-9]{1,9}(?:\.[0-9]{1,9}){2})\.tar\.gz$`)

// ParseArchiveName splits the name of an archive. It returns NewestName of its
// architecture, and its version.
func ParseArchiveName(name string) (newest, version string, ok bool) {
	found := archivePattern.FindStringSubmatch(name)
	if found == nil {
		return "", "", false
	}
	return found[1] + ".minisig", found[2], true
}

// ArchiveName returns the name that the archive of a version has.
func ArchiveName(a arch.Arch, version string) string {
	return "actions-runner-linux-" + a.ActionsRunner + "-" + version + ".tar.gz"
}

func get(ctx context.Context, target, token string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/vnd.github+json")
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}

	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	switch {
	case response.StatusCode == http.StatusForbidden || response.StatusCode == http.StatusTooManyRequests:
		return nil, fmt.Errorf("GET %s: %s; set GITHUB_TOKEN if this address has asked too often", target, response.Status)
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("GET %s: %s", target, response.Status)
	}

	data, err := io.ReadAll(io.LimitReader(response.Body, MaxAnswer+1))
	if err == nil && len(data) > MaxAnswer {
		err = errors.New("the answer is too large")
	}
	return data, err
}

// Archive returns the archive of the release for an architecture.
func (r *Release) Archive(a arch.Arch) (*Archive, error) {
	name := ArchiveName(a, r.Version)
	for _, file := range r.assets {
		if file.Name != name {
			continue
		}
		digest := digestPattern.FindStringSubmatch(file.Digest)
		if digest == nil {
			return nil, fmt.Errorf("cannot use %s: GitHub has no SHA-256 of it, but %.80q", name, file.Digest)
		}
		u, err := url.Parse(file.URL)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("cannot use %s: %.80q is not an https URL", name, file.URL)
		}
		return &Archive{URL: file.URL, SHA256: digest[1], Size: file.Size}, nil
	}
	return nil, fmt.Errorf("cannot find %s among the files of release %s", name, r.Version)
}
