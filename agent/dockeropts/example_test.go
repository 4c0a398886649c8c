package dockeropts_test

import (
	"fmt"

	"github.com/mkappliance/mkappliance/agent/dockeropts"
)

func ExampleParse() {
	o, err := dockeropts.Parse(`--cpus 1.5 -m 2g --health-cmd "pg_isready -U postgres"`)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%g processors, %d bytes, healthy after %q\n", o.CPUs, o.Memory, o.Health.Cmd)
	// Output: 1.5 processors, 2147483648 bytes, healthy after "pg_isready -U postgres"
}

func ExampleParse_refused() {
	_, err := dockeropts.Parse("--privileged")
	fmt.Println(err)
	// Output: option --privileged is not supported: a guest is already root in its own user namespace; remove it
}

func ExampleParsePorts() {
	ports, err := dockeropts.ParsePorts("8080-8081:80-81")
	fmt.Println(ports, err)
	// Output: [{8080 80 tcp} {8081 81 tcp}] <nil>
}

func ExampleAlias() {
	fmt.Println(dockeropts.Alias("registry.example/db/postgres:16"))
	// Output: postgres
}
