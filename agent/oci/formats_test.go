package oci

import (
	"os"
	"path/filepath"
	"testing"
)

// TestFormats reads the files of a version to come: what this one does not know is
// ignored.
func TestFormats(t *testing.T) {
	s := &Store{Dir: t.TempDir(), Owner: os.Geteuid()}
	for name, content := range map[string]string{
		"config.json": `{"Digest":"sha256:ab","More":1,"Size":7,"Config":{"More":1}}`,
		"ref":         `{"Name":"debian","Image":"ab","More":[1],"Public":true}`,
	} {
		if err := os.WriteFile(filepath.Join(s.Dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := s.readRecord("."); err != nil || r.Digest != "sha256:ab" || r.Size != 7 {
		t.Errorf("record: %+v, %v", r, err)
	}
	if r, err := s.readRef("ref"); err != nil || r.Name != "debian" || !r.Public {
		t.Errorf("ref: %+v, %v", r, err)
	}
}
