package disk

import "testing"

func TestFileSystemType(t *testing.T) {
	for _, test := range []struct{ summary, record, want string }{
		{summary: "ext4", record: "S:disk/by-label/" +
			"RUNNER_UPDATE\nE:ID_FS_LABEL=x\nE:ID_FS_TYPE=ext4\nG:systemd\n", want: "ext4"},
		{summary: "in a label", record: "E:ID_FS_LABEL=E:ID_FS_TYPE=ext4\nE:ID_FS_TYPE=btrfs\n", want: "btrfs"},
		{summary: "none", record: "E:ID_FS_LABEL=RUNNER_UPDATE\n"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			if got := fileSystemType(test.record); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
