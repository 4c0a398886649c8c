package shellwords_test

import (
	"fmt"

	"github.com/mkappliance/mkappliance/agent/shellwords"
)

func ExampleSplit() {
	words, err := shellwords.Split(`sh -c 'echo "$HOME"' a\ b ""`)
	fmt.Printf("%q %v\n", words, err)
	// Output: ["sh" "-c" "echo \"$HOME\"" "a b" ""] <nil>
}

func ExampleSplit_error() {
	_, err := shellwords.Split(`sh -c 'echo`)
	fmt.Println(err)
	// Output: the command line has a quote that is not closed
}
