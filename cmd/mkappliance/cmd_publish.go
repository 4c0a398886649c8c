package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/progress"
	"github.com/mkappliance/mkappliance/internal/publish"
	"github.com/mkappliance/mkappliance/internal/release"
)

// authorizationVariable holds the header by which a server knows the publisher.
const authorizationVariable = "MKAPPLIANCE_AUTHORIZATION"

type publishOptions struct {
	key        keyFlags
	publicKeys []string
	base       string
	new, json  bool
}

func newPublishCommand() *cobra.Command {
	var o publishOptions
	c := &cobra.Command{
		Use:   "publish --key FILE DIR|URL MANIFEST...",
		Short: "Put signed update sets into a channel",
		Long: `Put signed update sets into a channel: the directory DIR, or one of a web server
that takes files by PUT. Appliances whose RUNNER_UPGRADE_SOURCE is that directory
find them there.

The files are written first and the index last, signed with the key: an appliance
never finds a version of which a part is missing. Nothing is written if a set is
not signed, if a file is not the one that its manifest describes, or if the index
has the version with other content. Publishing the same again does no harm. Only
one publisher may write to a channel at a time.

` + authorizationVariable + ` in the environment is sent to the server as the header
Authorization, such as "Bearer TOKEN", over https only.

Exit status:
  0  the channel has the versions
  1  a set was refused, or the channel could not be read or written
  2  the command line, the key or its password is wrong`,
		Example: `  mkappliance publish --key release.key --new /srv/www/runner out/runner-amd64_1.4.0.manifest.json
  mkappliance publish --key release.key https://updates.example.org/runner/ out/runner-amd64_1.4.1.manifest.json
  mkappliance publish --key new.key --public-key old.pub /media/RUNNER_UPDATE out/*.manifest.json`,
		Args: cli.Args("DIR|URL", "MANIFEST..."),
		RunE: func(c *cobra.Command, args []string) error {
			return o.run(c, args[0], args[1:])
		},
	}
	f := c.Flags()
	o.key.add(f)
	f.StringArrayVar(&o.publicKeys, "public-key", nil,
		"accept signatures of the public key in `FILE` too; may be repeated (default: of --key alone)")
	_ = c.MarkFlagFilename("public-key", "pub")
	f.StringVar(&o.base, "base", "",
		"have appliances take the files of these versions from the directory `URL` (default: that of the index)")
	f.BoolVar(&o.new, "new", false, "start an index if the channel has none")
	f.BoolVar(&o.json, "json", false, "report progress and the new index as JSON, one object a line")
	return c
}

func (o *publishOptions) run(c *cobra.Command, target string, manifests []string) error {
	p, err := o.publisher(target)
	if err != nil {
		return cli.Usage(err)
	}
	var sets []*publish.Set
	for _, path := range manifests {
		set, err := publish.OpenSet(path)
		if err != nil {
			return err
		}
		sets = append(sets, set)
	}

	index, err := p.Publish(c.Context(), sets, time.Now())
	if err != nil {
		return err
	}
	if o.json {
		return json.NewEncoder(c.OutOrStdout()).Encode(index)
	}
	for _, s := range sets {
		fmt.Fprintf(c.OutOrStdout(), "%s %s\n", s.Manifest.Image, s.Manifest.Version)
	}
	return nil
}

// publisher checks the flags and the target.
func (o *publishOptions) publisher(target string) (*publish.Publisher, error) {
	if o.base != "" {
		if err := release.CheckBase(o.base); err != nil {
			return nil, fmt.Errorf("cannot use --base: %w", err)
		}
	}
	mode := progress.DetectMode(os.Stderr)
	if o.json {
		mode = progress.JSON
	}
	reporter := progress.New(os.Stderr, mode)
	p := &publish.Publisher{Base: o.base, New: o.new, Report: func(name string) func(error) {
		stage := reporter.Stage(name)
		return func(err error) {
			if err != nil {
				stage.Fail(err)
				return
			}
			stage.Done("")
		}
	}}

	for _, path := range o.publicKeys {
		key, err := release.ReadKey(path)
		if err != nil {
			return nil, err
		}
		p.Accepted = append(p.Accepted, key)
	}
	var err error
	if p.Target, err = publish.OpenTarget(target, os.Getenv(authorizationVariable)); err != nil {
		return nil, err
	}
	p.Key, err = o.key.read()
	return p, err
}
