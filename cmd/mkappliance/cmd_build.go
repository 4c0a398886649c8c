package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/mkappliance/mkappliance/image"
	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/progress"
	"github.com/mkappliance/mkappliance/internal/run"
	"github.com/mkappliance/mkappliance/internal/spec"
	"github.com/mkappliance/mkappliance/rootfs"
)

// defaultEpoch stamps the files of an image when SOURCE_DATE_EPOCH is not set:
// 2025-08-09, the release of Debian 13. What matters is that it never changes.
const defaultEpoch = 1754697600

// imageUmask is in force while trees are made: the modes in an image must not
// depend on the caller's.
const imageUmask = 0o022

type buildOptions struct {
	specFile, outDir, cacheDir, programs, version, runner string
	json                                                  bool
}

func newBuildCommand() *cobra.Command {
	var o buildOptions
	c := &cobra.Command{
		Use:   "build IMAGE",
		Short: "Bake an image that images.toml describes",
		Long: `Bake an image that images.toml describes.

The disk image is written to OUT/IMAGE_VERSION.img, with a manifest beside it.
Nothing appears under those names unless the whole build succeeded.

Root is not needed: without it the build runs in a user namespace, for which
your user needs entries in /etc/subuid and /etc/subgid and the package uidmap.
Neither way mounts anything on the build host or uses a loop device.

Exit status:
  0  the image was written
  1  the build failed
  2  the command line or images.toml is wrong`,
		Example: `  mkappliance build runner-amd64
  mkappliance build runner-amd64 --version 1.4.0 --out dist
  mkappliance build runner-amd64 --runner ./actions-runner-linux-x64-2.337.0.tar.gz`,
		Args: cli.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return runBuild(c, o, args[0]) },
	}
	f := c.Flags()
	o.addSpecFlags(f)
	f.StringVarP(&o.outDir, "out", "o", "out", "write the image to `DIR`")
	f.StringVar(&o.programs, "programs", "", "put in runner-agent and runner-shim from `DIR` (default: that of mkappliance)")
	f.StringVar(&o.version, "version", "", "give the image this `VERSION` instead of the one in images.toml")
	f.StringVar(&o.runner, "runner", "", "take the actions runner from `FILE[@SHA256]` instead of the source in images.toml")
	return c
}

// addSpecFlags adds the flags of every verb that makes trees.
func (o *buildOptions) addSpecFlags(f *pflag.FlagSet) {
	f.StringVarP(&o.specFile, "file", "f", "images.toml", "read the description of images from `FILE`")
	f.StringVar(&o.cacheDir, "cache-dir", "", "keep package layers and downloads in `DIR` (default: mkappliance in your cache directory)")
	f.BoolVar(&o.json, "json", false, "report progress and result as JSON, one object a line")
}

func (o *buildOptions) progressMode() progress.Mode {
	if o.json {
		return progress.JSON
	}
	return progress.DetectMode(os.Stderr)
}

// options checks everything the user gave, before anything is done.
func (o *buildOptions) options(name string) (*image.Options, error) {
	img, err := o.image(name)
	if err != nil {
		return nil, err
	}
	epoch, err := sourceDateEpoch(os.Getenv("SOURCE_DATE_EPOCH"))
	if err != nil {
		return nil, err
	}
	cache, err := cacheDir(o.cacheDir)
	if err != nil {
		return nil, err
	}
	return &image.Options{Spec: img, OutDir: o.outDir, CacheDir: cache, Epoch: epoch}, nil
}

// cacheDir is the directory given, or the default.
func cacheDir(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cannot find your cache directory: %w; give --cache-dir", err)
	}
	return filepath.Join(base, "mkappliance"), nil
}

func runBuild(c *cobra.Command, o buildOptions, name string) error {
	options, err := o.options(name)
	if err != nil {
		return cli.Usage(err)
	}
	if options.Programs, err = o.findPrograms(); err != nil {
		return cli.Usage(err)
	}
	if err := rootfs.EnterUserNamespace(); err != nil {
		return err
	}
	syscall.Umask(imageUmask)
	options.Executor = run.Local{}
	options.Progress = progress.New(os.Stderr, o.progressMode())
	result, err := image.Build(c.Context(), *options)
	if err != nil {
		return err
	}
	options.Progress.Summary()
	if o.json {
		return json.NewEncoder(c.OutOrStdout()).Encode(result)
	}
	fmt.Fprintln(c.OutOrStdout(), result.Image)
	return nil
}

// image reads the description and applies the flags that change it.
func (o *buildOptions) image(name string) (*spec.Image, error) {
	s, err := spec.Load(o.specFile)
	if err != nil {
		return nil, err
	}
	img, err := s.Image(name)
	if err != nil {
		return nil, err
	}
	if o.version != "" {
		if err := spec.CheckVersion(o.version); err != nil {
			return nil, fmt.Errorf("cannot use --version: %w", err)
		}
		img.Version = o.version
	}
	if o.runner != "" {
		path, sum, _ := strings.Cut(o.runner, "@")
		img.Runner.Path, img.Runner.URL, img.Runner.Version = path, "", "local"
		if img.Runner.SHA256, err = rootfs.FileHash(path, sum); err != nil {
			return nil, fmt.Errorf("cannot use --runner: %w", err)
		}
	}
	return img, nil
}

// findPrograms finds the static programs for the appliance.
func (o *buildOptions) findPrograms() ([]string, error) {
	if o.programs == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("cannot find the appliance's programs: %w", err)
		}
		o.programs = filepath.Dir(self)
	}
	var programs []string
	for _, name := range []string{"runner-agent", "runner-shim"} {
		program := filepath.Join(o.programs, name)
		if _, err := os.Stat(program); err != nil {
			return nil, fmt.Errorf("cannot find the appliance's programs: %w; build them with 'make' or give --programs", err)
		}
		programs = append(programs, program)
	}
	return programs, nil
}

func sourceDateEpoch(text string) (int64, error) {
	if text == "" {
		return defaultEpoch, nil
	}
	epoch, err := strconv.ParseInt(text, 10, 64)
	if err != nil || epoch < 0 {
		return 0, fmt.Errorf("cannot use SOURCE_DATE_EPOCH %q: want seconds since 1970", text)
	}
	return epoch, nil
}
