package rootfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/mkappliance/mkappliance/internal/run"
)

// Sources is where apt in a new tree downloads from.
type Sources struct {
	Lines   []string // one-line format of sources.list(5)
	Options []string // apt.conf(5): proxy and the like, without which the host could not reach them
}

// list returns the content of a sources.list(5).
func (s *Sources) list() string { return strings.Join(s.Lines, "\n") + "\n" }

// FindSources returns the sources of a suite. If mirror is empty they are the
// Debian archives of the build host, as apt itself reports them.
func FindSources(ctx context.Context, executor run.Executor, suite, mirror string) (*Sources, error) {
	options, err := acquireOptions(ctx, executor)
	if err != nil {
		return nil, err
	}
	if mirror != "" {
		return &Sources{Lines: []string{
			fmt.Sprintf("deb %s %s main", mirror, suite),
			fmt.Sprintf("deb %s %s-updates main", mirror, suite),
		}, Options: options}, nil
	}

	targets, err := run.Output(ctx, executor, run.Cmd{Args: []string{
		"apt-get", "indextargets", "--format", "$(REPO_URI)|$(ORIGIN)|$(LABEL)", "Created-By: Packages"}})
	if err != nil {
		return nil, fmt.Errorf("cannot read the apt sources of this host: %w", err)
	}
	lines, err := sourceLines(string(targets), suite)
	return &Sources{Lines: lines, Options: options}, err
}

// IndexHash returns the digest of the signed index of every source. It changes
// whenever a package of the sources does. The indexes are fetched by apt's own
// downloader, so that its proxies and credentials apply.
func (s *Sources) IndexHash(ctx context.Context, executor run.Executor) (string, error) {
	dir, err := os.MkdirTemp("", "mkappliance-release-")
	if err != nil {
		return "", fmt.Errorf("cannot read the archive's index: %w", err)
	}
	defer os.RemoveAll(dir)

	sum := sha256.New()
	for i, line := range s.Lines {
		fields := strings.Fields(line) // deb URI SUITE COMPONENT
		url := strings.TrimSuffix(fields[1], "/") + "/dists/" + fields[2] + "/InRelease"
		file := filepath.Join(dir, strconv.Itoa(i))
		cmd := run.Cmd{Args: []string{"/usr/lib/apt/apt-helper", "download-file", url, file}}
		if err := executor.Exec(ctx, cmd); err != nil {
			return "", fmt.Errorf("cannot read the archive's index: %w", err)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("cannot read the archive's index: %w", err)
		}
		sum.Write(data)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// sourceLines turns apt's list of targets, one "URI|origin|label" a line, into
// the sources of another suite from the same archives.
func sourceLines(targets, suite string) ([]string, error) {
	uris := map[string]string{} // label -> URI, the first of each label
	for line := range strings.Lines(targets) {
		fields := strings.Split(strings.TrimSpace(line), "|")
		if len(fields) != 3 || fields[1] != "Debian" {
			continue
		}
		if _, known := uris[fields[2]]; !known {
			uris[fields[2]] = fields[0]
		}
	}

	main, ok := uris["Debian"]
	if !ok {
		return nil, errors.New("cannot find a Debian archive in the apt sources of this host:" +
			" run 'apt-get update', or set mirror in images.toml")
	}
	lines := []string{
		fmt.Sprintf("deb %s %s main", main, suite),
		fmt.Sprintf("deb %s %s-updates main", main, suite),
	}
	if security, ok := uris["Debian-Security"]; ok {
		lines = append(lines, fmt.Sprintf("deb %s %s-security main", security, suite))
	}
	return lines, nil
}

// acquireOptions copies the settings without which the host could not reach
// its sources either.
func acquireOptions(ctx context.Context, executor run.Executor) ([]string, error) {
	dump, err := run.Output(ctx, executor, run.Cmd{Args: []string{"apt-config", "dump", "Acquire"}})
	if err != nil {
		return nil, fmt.Errorf("cannot read the apt configuration of this host: %w", err)
	}
	var options []string
	for line := range strings.Lines(string(dump)) {
		line = strings.TrimSuffix(strings.TrimSpace(line), ";")
		name, _, _ := strings.Cut(line, " ")
		switch strings.ToLower(name) {
		case "acquire::http::proxy", "acquire::https::proxy", "acquire::retries",
			"acquire::check-valid-until", "acquire::check-date":
			options = append(options, line)
		}
	}
	slices.Sort(options)
	return options, nil
}
