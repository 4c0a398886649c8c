package layout

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/internal/arch"
)

// TestOverlays asserts that the files of the overlays, which cannot read this
// package, say the same as it does.
func TestOverlays(t *testing.T) {
	const dracut = "usr/lib/dracut/modules.d/50runner/"
	user := fmt.Sprintf("u runner %d ", RunnerUID)
	byLabel := "/dev/disk/by-partlabel/" + VarLabel
	checkOverlay(t, "guest", []overlayFile{
		{"user of steps", "usr/lib/sysusers.d/runner.conf", fmt.Sprintf("u %s %[2]d:%[2]d ", WorkerUser, WorkerUID)},
		{"actions runner", "usr/lib/tmpfiles.d/runner.conf", "d " + WorkerRunner + " "},
		{"work", "usr/lib/tmpfiles.d/runner.conf", "d " + WorkerWork + " "},
		{"hook", WorkerHooks, " " + WorkerSocket + "\n"},
	})

	files := []overlayFile{
		{"user of the actions runner", "usr/lib/sysusers.d/runner.conf", user},
		{"state", "usr/lib/tmpfiles.d/runner.conf", "d " + State + " "},
		{"kept configuration", "usr/lib/tmpfiles.d/runner.conf", "d " + filepath.Dir(KeptConfigFile) + " "},
		{"actions runner", "usr/lib/tmpfiles.d/runner.conf", "d " + ActionsRunner + " "},
		{"work", "usr/lib/tmpfiles.d/runner.conf", "d " + Work + " "},
		{"jobs", "usr/lib/tmpfiles.d/runner.conf", "d " + Jobs + " "},
		{"var in the initrd", dracut + "sysroot-var.mount", "What=" + byLabel + "\n"},
		{"var at the first boot", dracut + "runner-first-layout.sh", byLabel + ")"},
	}
	for _, a := range arch.All() {
		// The script counts the slots of the disk by this type.
		if a.Bakeable {
			files = append(files, overlayFile{
				"root partition on " + a.Debian, dracut + "runner-first-layout.sh", "root_type=" + a.GPT.Root + " "})
		}
	}

	checkOverlay(t, "host", files)
}

// overlayFile is what a file of an overlay has to contain.
type overlayFile struct{ summary, file, want string }

func checkOverlay(t *testing.T, overlay string, files []overlayFile) {
	t.Helper()
	for _, test := range files {
		t.Run(overlay+"/"+test.summary, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join("../../overlays", overlay, test.file))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(data), test.want) {
				t.Errorf("%s lacks %q", test.file, test.want)
			}
		})
	}
}
