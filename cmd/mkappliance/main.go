// Command mkappliance bakes, seeds and boots appliance images for one GitHub
// Actions self-hosted runner.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/mkappliance/mkappliance/internal/cli"
	"github.com/mkappliance/mkappliance/internal/manpage"
)

func main() { os.Exit(cli.Main(newRootCommand())) }

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "mkappliance",
		Short: "Bake bootable appliance images for one GitHub Actions runner",
	}
	root.AddCommand(
		newBuildCommand(),
		newSeedCommand(),
		newBootCommand(),
		newGuestBaseCommand(),
		newVerifyCommand(),
		newCheckCommand(),
		newRunnerUpdateCommand(),
		newKeygenCommand(),
		newSignCommand(),
		newPublishCommand(),
		newTestUpgradeCommand(),
	)
	cli.AddVersion(root)
	manpage.Add(root)
	return root
}
