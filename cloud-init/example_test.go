package cloudinit_test

import (
	"fmt"
	"os"
	"path/filepath"

	cloudinit "github.com/mkappliance/mkappliance/cloud-init"
)

// A seed for one appliance: cloud-init writes config.env and sets the host name
// when the machine boots with the seed attached.
func ExampleSeed_Write() {
	dir, err := os.MkdirTemp("", "seed-example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)

	seed := cloudinit.Seed{
		ConfigEnv: []byte("RUNNER_GITHUB_URL=https://github.com/octo/hello\nRUNNER_REGISTRATION_TOKEN=...\n"),
		Hostname:  "builder-7",
	}
	path := filepath.Join(dir, "seed.iso")
	if err := seed.Write(path); err != nil {
		fmt.Println(err)
		return
	}

	info, err := os.Stat(path)
	fmt.Println(info.Mode(), err)
	// Output: -rw------- <nil>
}

// cloud-init would ignore this user-data with a line in its log.
func ExampleCheckUserData() {
	err := cloudinit.CheckUserData("users.yaml", []byte("#cloud-config\n- users\n"))
	fmt.Println(err)
	// Output: users.yaml:2: a cloud-config is a mapping; write lines like 'users: ...'
}
