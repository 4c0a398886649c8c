package main

import (
	"testing"

	"github.com/mkappliance/mkappliance/internal/cli/clitest"
)

func TestMain(m *testing.M) { clitest.Main(m, "runner-shim", main) }

func TestScripts(t *testing.T) { clitest.Run(t) }
