package native

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestHasSSHKey: ssh.service starts only if a user has a key.
func TestHasSSHKey(t *testing.T) {
	tests := []struct {
		summary string
		keys    string // of the second of two users
		want    bool
	}{
		{summary: "no file"},
		{summary: "an empty file", keys: "empty"},
		{summary: "a key", keys: "ssh-ed25519 AAAA", want: true},
	}
	for _, tt := range tests {
		t.Run(tt.summary, func(t *testing.T) {
			dir := t.TempDir()
			users := fmt.Sprintf("root:x:0:0::%s/root:/bin/sh\nadmin:x:1000:1000::%[1]s/admin:/bin/sh\n", dir)
			write(t, filepath.Join(dir, "bin/getent"), "#!/bin/sh\ncat <<E\n"+users+"E\n")
			switch tt.keys {
			case "":
			case "empty":
				write(t, filepath.Join(dir, "admin/.ssh/authorized_keys"), "")
			default:
				write(t, filepath.Join(dir, "admin/.ssh/authorized_keys"), tt.keys+"\n")
			}

			cmd := exec.CommandContext(t.Context(), "../../overlays/host/usr/local/lib/runner/has-ssh-key")
			cmd.Env = []string{"PATH=" + dir + "/bin:/usr/bin:/bin"}
			if err := cmd.Run(); (err == nil) != tt.want {
				t.Errorf("got %v, want success to be %v", err, tt.want)
			}
		})
	}
}

// write writes a program or a file, and the directories above it.
func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}
