package cloudinit_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	cloudinit "github.com/mkappliance/mkappliance/cloud-init"
)

func TestCheckUserData(t *testing.T) {
	for _, test := range []struct{ summary, userData, want string }{
		{"cloud-config", "#cloud-config\nusers:\n  - name: root\n", ""},
		{"nothing but the header", "#cloud-config\n", ""},
		{"files", "#cloud-config\nwrite_files:\n- path: /x\n", ""},
		{"files by reference", "#cloud-config\nx: &files [{path: /x}]\nwrite_files: *files\n", ""},
		{"no list of files", "#cloud-config\nusers: []\nwrite_files:\n", "u:3: write_files is not a list, so config.env cannot be added to it; list the files with '-', or remove it"},
		{"one file, not in a list", "#cloud-config\nwrite_files:\n  path: /x\n", "u:2: write_files is not a list, so config.env cannot be added to it; list the files with '-', or remove it"},
		{"MIME", "Content-Type: multipart/mixed; boundary=x\nMIME-Version: 1.0\n", "u:1: user-data of this kind cannot be joined with config.env; begin it with #cloud-config, or #! for a script"},
		{"line ends of Windows", "#cloud-config\r\nusers: []\r\n", ""},
		{"script", "#!/bin/sh\necho: [\n", ""},
		{"archive", "#cloud-config-archive\n- type: text/cloud-config\n", ""},
		{"patch", "#cloud-config-jsonp\n- {op: add, path: /x, value: y}\n", ""},
		{"template", "## template: jinja\n#cloud-config\nx: {{ y }}\n", ""},
		{"empty", "", "u:1: user-data of this kind cannot be joined with config.env; begin it with #cloud-config, or #! for a script"},
		{"no header", "users: []\n", "u:1: user-data of this kind cannot be joined with config.env; begin it with #cloud-config, or #! for a script"},
		{"header below", "\n#cloud-config\n", "u:1: user-data of this kind cannot be joined with config.env; begin it with #cloud-config, or #! for a script"},
		{"list", "#cloud-config\n- users\n", "u:2: a cloud-config is a mapping; write lines like 'users: ...'"},
		{"text", "#cloud-config\n\nusers\n", "u:3: a cloud-config is a mapping; write lines like 'users: ...'"},
		{"tab", "#cloud-config\nusers:\n\t- name: root\n", "u:3: found character that cannot start any token; correct the YAML from there on"},
		{"open list", "#cloud-config\nruncmd:\n  - [a\nusers: []\n", "u:2: did not find expected ',' or ']'; correct the YAML from there on"},
		{"key twice", "#cloud-config\nruncmd: [a]\nruncmd: [b]\n", `u:3: mapping key "runcmd" already defined at line 2; correct the YAML from there on`},
	} {
		t.Run(test.summary, func(t *testing.T) {
			got := ""
			if err := cloudinit.CheckUserData("u", []byte(test.userData)); err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func FuzzCheckUserData(f *testing.F) {
	for _, seed := range []string{"#cloud-config\na: [1, {b: *c}]\n", "#cloud-config\n- &a\n", "#!\n", "#cloud-config\n? x\n: y\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, userData []byte) {
		err := cloudinit.CheckUserData("u", userData)
		if err != nil && !strings.HasPrefix(err.Error(), "u:") {
			t.Errorf("message without a place: %v", err)
		}
	})
}

func TestExamplesAreGood(t *testing.T) {
	examples, err := filepath.Glob("examples/*.yaml")
	if err != nil || len(examples) == 0 {
		t.Fatalf("got %v, %v", examples, err)
	}
	for _, path := range examples {
		userData, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := cloudinit.CheckUserData(path, userData); err != nil {
			t.Error(err)
		}
	}
}
