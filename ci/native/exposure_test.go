package native

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestExposure bounds what systemd-analyze(1) finds open in each unit, in tenths
// of its scale from 0 to 10. A little is left for other versions of systemd.
func TestExposure(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skipf("units are judged by systemd-analyze: %v", err)
	}
	bounds := map[string]int{
		"runner.service":          31, // .NET compiles as it runs; steps of RUNNER_JOBS=host need namespaces
		"runner-guestd.service":   79, // guests inherit what restricts it, and root is what it is for
		"runner-health.service":   22,
		"runner-install.service":  30,
		"runner-renew.service":    27, // it may ask systemd to restart runner.service
		"runner-reset.service":    20,
		"runner-rollback.service": 18,
		"runner-ssh-key.service":  15,
		"runner-trust.service":    11,
		"runner-upgrade.service":  30, // it mounts the ESP and writes the disk
	}
	units, err := filepath.Glob("../../overlays/host/usr/lib/systemd/system/*.service")
	if err != nil || len(units) != len(bounds) {
		t.Errorf("there are %d units and %d bounds, %v", len(units), len(bounds), err)
	}

	for _, unit := range units {
		name := filepath.Base(unit)
		t.Run(name, func(t *testing.T) {
			bound, ok := bounds[name]
			if !ok {
				t.Fatal("no bound is set")
			}
			if out, err := analyze(t.Context(), unit, bound); err != nil {
				t.Errorf("exposed beyond %d: %v\n%s", bound, err, out)
			}
		})
	}
}

// TestExposureFails: a unit without any restriction is beyond every bound.
func TestExposureFails(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skipf("units are judged by systemd-analyze: %v", err)
	}
	unit := filepath.Join(t.TempDir(), "open.service")
	if err := os.WriteFile(unit, []byte("[Service]\nExecStart=/bin/true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := analyze(t.Context(), unit, 90); err == nil || !strings.Contains(out, "UNSAFE") {
		t.Errorf("got %v\n%s", err, out)
	}
}

// analyze fails if a unit is exposed beyond a bound.
func analyze(ctx context.Context, unit string, bound int) (string, error) {
	out, err := exec.CommandContext(ctx, "systemd-analyze", "security", "--offline=yes",
		"--threshold="+strconv.Itoa(bound), unit).CombinedOutput()
	return string(out), err
}
