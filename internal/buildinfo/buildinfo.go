// Package buildinfo knows which source a program was built from.
package buildinfo

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
)

// The linker sets these (Makefile, -X). They are variables because it can set
// nothing else, and nothing in the program does.
var version, commit, date string

// unknown stands for what neither the linker nor the go command recorded.
const unknown = "unknown"

// Info describes the source of a program.
type Info struct {
	Version string `json:"version"` // as git-describe(1) prints it, or a module version
	Commit  string `json:"commit"`  // full hash
	Date    string `json:"date"`    // of the commit, RFC 3339 in UTC
	Go      string `json:"go"`      // version of the compiler, as "go1.25.4"
}

// Read returns the source of the running program: what make recorded, else what
// "go build" or "go install MODULE@VERSION" did.
func Read() Info {
	recorded, _ := debug.ReadBuildInfo()
	return read(Info{Version: version, Commit: commit, Date: date}, recorded)
}

func read(linked Info, recorded *debug.BuildInfo) Info {
	vcs := map[string]string{}
	module := ""
	if recorded != nil {
		module = recorded.Main.Version
		for _, setting := range recorded.Settings {
			vcs[setting.Key] = setting.Value
		}
	}

	return Info{
		Version: cmp.Or(linked.Version, module, unknown),
		Commit:  cmp.Or(linked.Commit, vcs["vcs.revision"], unknown),
		Date:    cmp.Or(linked.Date, vcs["vcs.time"], unknown),
		Go:      runtime.Version(),
	}
}

// String returns all of it in one line, as "v1.4.0 (commit HASH, DATE, go1.25.4)".
func (i Info) String() string {
	return fmt.Sprintf("%s (commit %s, %s, %s)", i.Version, i.Commit, i.Date, i.Go)
}
