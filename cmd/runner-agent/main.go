// Command runner-agent is the whole run time of the appliance: it registers
// the runner, supervises it, and runs container job steps in guests.
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
		Use:   "runner-agent",
		Short: "Register, supervise and isolate one GitHub Actions runner",
	}
	root.AddCommand(newInstallCommand(), newTrustCommand(), newServiceCommand(), newBrokerCommand(),
		newImagesCommand(), newUnpackCommand(), newRunCommand(), newUpgradeCommand(), newRenewCommand(), newResetCommand(),
		newStatusCommand(), newHealthCommand(), newDrainCommand(), newResumeCommand())
	cli.AddVersion(root)
	manpage.Add(root)
	return root
}
