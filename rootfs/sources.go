package rootfs

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/mkappliance/mkappliance/internal/run"
)

// Sources is what apt in a new tree downloads from: lines in the one-line
// format of sources.list(5), and the acquisition options that reaching them
// needs (proxy and the like, apt.conf(5)).
type Sources struct {
	Lines   []string
	Options []string
}

// FindSources gives the sources for suite. With mirror empty they are the build
// host's own Debian archives, asked of apt itself, so that whatever the host
// installs from is what the image is baked from.
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

// sourceLines turns apt's list of targets, one "URI|origin|label" a line, into
// the sources of another suite from the same archives.
func sourceLines(targets, suite string) ([]string, error) {
	archives := map[string]string{} // label -> URI, the first of each label
	for line := range strings.Lines(targets) {
		fields := strings.Split(strings.TrimSpace(line), "|")
		if len(fields) != 3 || fields[1] != "Debian" {
			continue
		}
		if _, known := archives[fields[2]]; !known {
			archives[fields[2]] = fields[0]
		}
	}
	main, ok := archives["Debian"]
	if !ok {
		return nil, errors.New("cannot find a Debian archive in the apt sources of this host: run 'apt-get update', or set mirror in images.toml")
	}
	lines := []string{
		fmt.Sprintf("deb %s %s main", main, suite),
		fmt.Sprintf("deb %s %s-updates main", main, suite),
	}
	if security, ok := archives["Debian-Security"]; ok {
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
	sort.Strings(options)
	return options, nil
}
