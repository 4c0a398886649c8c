package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/internal/actionsrunner"
	"github.com/mkappliance/mkappliance/internal/arch"
	"github.com/mkappliance/mkappliance/internal/atomicfile"
	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/release"
	"github.com/mkappliance/mkappliance/internal/spec"
)

// statusOutdated is the exit status of --check if there is a newer version.
const statusOutdated = 3

type runnerUpdateOptions struct {
	specFile    string
	check, json bool
}

func newRunnerUpdateCommand() *cobra.Command {
	var o runnerUpdateOptions
	c := &cobra.Command{
		Use:   "runner-update",
		Short: "Write the newest actions runner into images.toml",
		Long: `Ask GitHub for the newest release of the actions runner, and write its version,
url and sha256 into images.toml, for every image that has its runner from a URL.
The rest of the file stays as it is, comments included. The hash is the one that
GitHub computed when the file was uploaded.

GitHub stops to serve a version of the actions runner 30 days after the next one
was published: run this before each build, or once a week.

GITHUB_TOKEN in the environment, if it is set, is sent to GitHub, which otherwise
answers 60 times an hour for each address. GITHUB_API_URL names another server.

Exit status:
  0  images.toml has the newest version
  1  GitHub could not be asked, or the file could not be written
  2  the command line or images.toml is wrong
  3  with --check: there is a newer version`,
		Example: `  mkappliance runner-update
  mkappliance runner-update --check || echo 'time to build'`,
		Args: cli.Args(),
		RunE: func(c *cobra.Command, _ []string) error { return o.run(c) },
	}
	f := c.Flags()
	f.StringVarP(&o.specFile, "file", "f", "images.toml", "read and write the description of images in `FILE`")
	f.BoolVar(&o.check, "check", false, "write nothing, and exit with 3 if there is a newer version")
	f.BoolVar(&o.json, "json", false, "print each image as a JSON object on a line")
	return c
}

// runnerChange is a line of the output.
type runnerChange struct {
	Image  string `json:"image"`
	Old    string `json:"old"` // version in images.toml
	Newest string `json:"newest"`
}

func (r runnerChange) outdated() bool { return release.Compare(r.Newest, r.Old) > 0 }

func (o *runnerUpdateOptions) run(c *cobra.Command) error {
	data, err := os.ReadFile(o.specFile)
	if err != nil {
		return cli.Usage(fmt.Errorf("cannot read description of images: %w", err))
	}
	s, err := spec.Parse(o.specFile, data)
	if err != nil {
		return cli.Usage(err)
	}
	newest, err := actionsrunner.Newest(c.Context(), cmp.Or(os.Getenv("GITHUB_API_URL"), actionsrunner.DefaultAPI),
		os.Getenv("GITHUB_TOKEN"))
	if err != nil {
		return err
	}

	outdated := false
	for i := range s.Images {
		img := &s.Images[i]
		if img.Runner.URL == "" {
			continue
		}
		change := runnerChange{Image: img.Name, Old: img.Runner.Version, Newest: newest.Version}
		if change.outdated() {
			outdated = true
			if data, err = setRunner(o.specFile, data, img, newest); err != nil {
				return err
			}
		}
		if err := o.print(c.OutOrStdout(), change); err != nil {
			return err
		}
	}
	if !outdated {
		return nil
	}
	if o.check {
		return &cli.StatusError{Status: statusOutdated, Err: errors.New("there is a newer actions runner"), Quiet: true}
	}
	return o.write(data)
}

// setRunner puts a release into the content of images.toml.
func setRunner(path string, data []byte, img *spec.Image, r *actionsrunner.Release) ([]byte, error) {
	a, err := arch.Lookup(img.Architecture)
	if err != nil {
		return nil, err
	}
	archive, err := r.Archive(a)
	if err != nil {
		return nil, err
	}
	return spec.SetRunner(path, data, img.Name,
		spec.Component{Version: r.Version, URL: archive.URL, SHA256: archive.SHA256})
}

// write replaces images.toml and keeps its mode.
func (o *runnerUpdateOptions) write(data []byte) error {
	info, err := os.Stat(o.specFile)
	if err != nil {
		return fmt.Errorf("cannot write description of images: %w", err)
	}
	return atomicfile.Write(o.specFile, data, info.Mode().Perm())
}

func (o *runnerUpdateOptions) print(out io.Writer, r runnerChange) error {
	if o.json {
		return json.NewEncoder(out).Encode(r)
	}
	if !r.outdated() {
		_, err := fmt.Fprintf(out, "%s\t%s\n", r.Image, r.Old)
		return err
	}
	_, err := fmt.Fprintf(out, "%s\t%s -> %s\n", r.Image, r.Old, r.Newest)
	return err
}
