package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/mkappliance/mkappliance/image"
	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/release"
	"github.com/mkappliance/mkappliance/internal/spec"
	"github.com/mkappliance/mkappliance/rootfs"
)

type buildOptions struct {
	environmentFlags
	specFile, outDir, programs, version, runner string
}

func newBuildCommand() *cobra.Command {
	var o buildOptions
	c := &cobra.Command{
		Use:   "build IMAGE",
		Short: "Bake an image that images.toml describes",
		Long: `Bake an image that images.toml describes.

The disk image is written to OUT/IMAGE_VERSION.img, with a manifest beside it,
IMAGE_VERSION.json. The update set of the same version, by which appliances are
upgraded, is written beside them too: IMAGE_VERSION.root, .verity, .efi and
.manifest.json, for 'mkappliance sign' and 'mkappliance publish'. Nothing appears
under those names unless the whole build succeeded.

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
		Args: cli.Args("IMAGE"),
		RunE: func(c *cobra.Command, args []string) error { return runBuild(c, o, args[0]) },
	}
	f := c.Flags()
	o.addFlags(f)
	f.StringVarP(&o.outDir, "out", "o", "out", "write the image to `DIR`")
	f.StringVar(&o.programs, "programs", "",
		"take runner-agent, runner-shim and their manual pages from `DIR` (default: that of mkappliance)")
	f.StringVar(&o.version, "version", "", "bake this `VERSION` instead of the one in images.toml")
	f.StringVar(&o.runner, "runner", "",
		"take the actions runner from `FILE[@SHA256]` instead of the source in images.toml")
	return c
}

// addFlags adds the flags of every verb that makes trees.
func (o *buildOptions) addFlags(f *pflag.FlagSet) {
	f.StringVarP(&o.specFile, "file", "f", "images.toml", "read the description of images from `FILE`")
	o.addCacheDir(f, "keep package layers and downloads in `DIR`")
	o.addJSON(f, "report progress and result as JSON, one object a line")
}

func runBuild(c *cobra.Command, o buildOptions, name string) error {
	img, err := o.image(name)
	if err != nil {
		return cli.Usage(err)
	}
	environment, err := o.environment()
	if err != nil {
		return cli.Usage(err)
	}
	programs, err := o.findPrograms()
	if err != nil {
		return cli.Usage(err)
	}

	// Everything above runs again inside: the program starts anew.
	if err := rootfs.EnterUserNamespace(); err != nil {
		return err
	}

	if len(img.Update.Keys) == 0 && !o.json {
		fmt.Fprintf(c.ErrOrStderr(), "mkappliance: warning: %s has no update.keys in %s: this image cannot be upgraded\n",
			name, o.specFile)
	}
	result, err := image.Build(c.Context(), image.Options{
		Environment: *environment, Spec: img, Programs: programs, OutDir: o.outDir})
	if err != nil {
		return err
	}
	environment.Progress.Summary()
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
		if err := release.CheckVersion(o.version); err != nil {
			return nil, fmt.Errorf("cannot use --version: %w", err)
		}
		if err := img.Update.CheckVersion(o.version); err != nil {
			return nil, fmt.Errorf("cannot use --version: %w in images.toml", err)
		}
		img.Version = o.version
	}
	if o.runner != "" {
		if img.Runner, err = localRunner(o.runner); err != nil {
			return nil, fmt.Errorf("cannot use --runner: %w", err)
		}
	}
	return img, nil
}

// localRunner returns the component that --runner FILE[@SHA256] names. Its hash
// is checked here, and not again by the build.
func localRunner(text string) (spec.Component, error) {
	path, sum, named := strings.Cut(text, "@")
	component := spec.Component{Version: "local", Path: path}
	if named {
		return component, rootfs.CheckFileHash(path, sum)
	}

	// Opening it finds out whether this user may read it.
	f, err := os.Open(path)
	if err != nil {
		return component, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", path)
	}
	return component, err
}

// findPrograms returns the static programs for the appliance, as make leaves
// them in a directory: with their manual pages, and with what runner-agent was
// built from. The programs themselves may be of another architecture.
func (o *buildOptions) findPrograms() (rootfs.Programs, error) {
	if o.programs == "" {
		self, err := os.Executable()
		if err != nil {
			return rootfs.Programs{}, fmt.Errorf("cannot find the appliance's programs: %w", err)
		}
		o.programs = filepath.Dir(self)
	}
	programs, err := readPrograms(o.programs)
	if err != nil {
		return programs, fmt.Errorf("cannot find the appliance's programs: %w;"+
			" build them with 'make' or give --programs", err)
	}
	return programs, nil
}

func readPrograms(dir string) (rootfs.Programs, error) {
	var programs rootfs.Programs
	for _, name := range []string{"runner-agent", "runner-shim"} {
		program := filepath.Join(dir, name)
		if _, err := os.Stat(program); err != nil {
			return programs, err
		}
		programs.Paths = append(programs.Paths, program)
	}

	source, err := os.ReadFile(filepath.Join(dir, "runner-agent.json"))
	if err != nil {
		return programs, err
	}
	if err := json.Unmarshal(source, &programs.Source); err != nil {
		return programs, fmt.Errorf("runner-agent.json: %w", err)
	}

	programs.Manuals, err = filepath.Glob(filepath.Join(dir, "man", "runner-agent*.1"))
	if err == nil && len(programs.Manuals) == 0 {
		err = fmt.Errorf("no manual pages in %s", filepath.Join(dir, "man"))
	}
	return programs, err
}
