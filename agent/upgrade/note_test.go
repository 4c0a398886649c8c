package upgrade

import (
	"os"
	"path/filepath"
	"testing"
)

// TestNote: the reason of a rollback is the one that the version noted before the
// end, if it is that version's.
func TestNote(t *testing.T) {
	for _, test := range []struct {
		summary string
		note    func(dir string) error
		want    string
	}{
		{summary: "none", note: func(string) error { return nil }, want: "it did not boot well"},
		{summary: "of the version", want: "its health check failed: guest: no", note: func(dir string) error {
			return WriteNote(dir, "1.1.0", "its health check failed: guest: no")
		}},
		{summary: "of another version", want: "it did not boot well", note: func(dir string) error {
			return WriteNote(dir, "1.2.0", "its health check failed")
		}},
		{summary: "removed", want: "it did not boot well", note: func(dir string) error {
			if err := WriteNote(dir, "1.1.0", "its health check did not end"); err != nil {
				return err
			}
			return RemoveNote(dir)
		}},
		{summary: "broken", want: "it did not boot well", note: func(dir string) error {
			return os.WriteFile(filepath.Join(dir, noteName), []byte("{"), 0o644)
		}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			l := newLab(t)
			l.publish(nil, newVersion(t, "1.1.0", join(noise(2, 20), l.running.root)))
			if _, err := l.upgrade(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			l.renameUKI("runner_1.1.0+3.efi", "runner_1.1.0+0-3.efi")
			if err := test.note(l.u.Dir); err != nil {
				t.Fatal(err)
			}

			if err := l.u.Settle(l); err != nil {
				t.Fatal(err)
			}
			s, err := LoadState(l.u.Dir)
			if err != nil {
				t.Fatal(err)
			}
			want := test.want + ", and the boot loader went back to 1.0.0"
			if len(s.Failed) != 1 || s.Failed[0].Reason != want {
				t.Errorf("failed %v, want the reason %q", s.Failed, want)
			}
		})
	}
}

// TestRemoveNoteAgain: without a note there is nothing to do.
func TestRemoveNoteAgain(t *testing.T) {
	if err := RemoveNote(t.TempDir()); err != nil {
		t.Error(err)
	}
}
