// Command stubrunner builds the tarball of ci/stubrunner and prints its path
// and sha256.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"

	"github.com/mkappliance/mkappliance/ci/stubrunner"
)

func main() {
	dir := flag.String("dir", ".", "`directory` to write into")
	version := flag.String("version", stubrunner.Version, "`version` the runner says it is")
	arch := flag.String("arch", "amd64", "`GOARCH` to build for")
	flag.Parse()
	path, sum, err := stubrunner.Build(context.Background(), *dir, stubrunner.Options{Version: *version, GOARCH: *arch})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(path, sum)
}
