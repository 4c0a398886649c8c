package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/mkappliance/mkappliance/image"
	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/progress"
	"github.com/mkappliance/mkappliance/internal/run"
)

// environmentFlags are the flags of every verb that works with trees or images.
type environmentFlags struct {
	cacheDir string
	json     bool
}

func (e *environmentFlags) addCacheDir(f *pflag.FlagSet, usage string) {
	f.StringVar(&e.cacheDir, "cache-dir", "", usage+" (default: mkappliance in your cache directory)")
}

func (e *environmentFlags) addJSON(f *pflag.FlagSet, usage string) {
	f.BoolVar(&e.json, "json", false, usage)
}

// environment checks the flags and the variables of the caller, and returns the
// environment of a build.
func (e *environmentFlags) environment() (*image.Environment, error) {
	epoch, err := cli.SourceDateEpoch()
	if err != nil {
		return nil, err
	}
	cache, err := e.cacheDirectory()
	if err != nil {
		return nil, err
	}

	mode := progress.DetectMode(os.Stderr)
	if e.json {
		mode = progress.JSON
	}
	return &image.Environment{CacheDir: cache, Epoch: epoch, Executor: run.Local{},
		Progress: progress.New(os.Stderr, mode)}, nil
}

// cacheDirectory returns the directory given, or the default.
func (e *environmentFlags) cacheDirectory() (string, error) {
	if e.cacheDir != "" {
		return e.cacheDir, nil
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cannot find your cache directory: %w; give --cache-dir", err)
	}
	return filepath.Join(base, "mkappliance"), nil
}
