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

func ExampleParsePort() {
	p, err := dockeropts.ParsePort("8080:80")
	fmt.Println(p.Host, p.Container, p.Protocol, err)
	// Output: 8080 80 tcp <nil>
}

func ExampleAlias() {
	fmt.Println(dockeropts.Alias("registry.example/db/postgres:16"))
	// Output: postgres
}
