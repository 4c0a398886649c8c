//go:build race

package oci_test

// memoryMessage is the end of a helper that takes too much memory. The race
// detector meets the limit before the program does.
const memoryMessage = "ThreadSanitizer failed to allocate"
