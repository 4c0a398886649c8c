//go:build !race

package oci_test

// memoryMessage is the end of a helper that takes too much memory.
const memoryMessage = "it takes more memory than a pull may, 1024 MiB"
