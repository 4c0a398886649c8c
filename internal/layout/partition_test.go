package layout

import (
	"strings"
	"testing"

	"github.com/mkappliance/mkappliance/internal/arch"
)

// TestDisk pins the disk: names on hosts in the field cannot change.
func TestDisk(t *testing.T) {
	var got []string
	for _, p := range Partitions() {
		where := "first boot"
		if p.Baked {
			where = "image"
		}
		got = append(got, strings.Join([]string{p.Name(), p.Label("1.4.0"), p.RepartType(), where,
			p.TypeID(arch.AMD64())}, " "))
	}
	want := `esp esp esp image c12a7328-f81f-11d2-ba4b-00a0c93ec93b
verity-a runner_1.4.0_verity root-verity image 2c7357ed-ebd2-46d9-aec1-23d437ec2bf5
root-a runner_1.4.0 root image 4f68bce3-e8cd-4db1-96e7-fbcaf984b709
verity-b runner_1.4.0_verity root-verity first boot 2c7357ed-ebd2-46d9-aec1-23d437ec2bf5
root-b runner_1.4.0 root first boot 4f68bce3-e8cd-4db1-96e7-fbcaf984b709
var runner-var var image 4d21b016-b534-45c2-a9fb-5c16e091fd2d`
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
	if got, want := GoodUKIName("1.4.0"), "runner_1.4.0.efi"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
