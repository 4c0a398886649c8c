package layout

import (
	"strings"
	"testing"
)

// TestDisk pins the disk: names on hosts in the field cannot change.
func TestDisk(t *testing.T) {
	var got []string
	for _, p := range Partitions() {
		where := "first boot"
		if p.Baked {
			where = "image"
		}
		got = append(got, strings.Join([]string{p.Name(), p.Label("1.4.0"), p.RepartType(), where}, " "))
	}
	want := `esp esp esp image
verity-a runner_1.4.0_verity root-verity image
root-a runner_1.4.0 root image
verity-b runner_1.4.0_verity root-verity first boot
root-b runner_1.4.0 root first boot
var runner-var var image`
	if text := strings.Join(got, "\n"); text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
}

func TestLabelsFit(t *testing.T) {
	version := strings.Repeat("1", MaxVersion)
	longest := 0
	for _, p := range Partitions() {
		longest = max(longest, len(p.Label(version)))
	}
	if longest != maxLabel {
		t.Errorf("the longest label has %d characters, want %d", longest, maxLabel)
	}
}

func TestUKIName(t *testing.T) {
	if got, want := UKIName("1.4.0", 3), "runner_1.4.0+3.efi"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
