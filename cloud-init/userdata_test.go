package cloudinit_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	cloudinit "github.com/mkappliance/mkappliance/cloud-init"
	"github.com/mkappliance/mkappliance/internal/golden"
)

// TestCheckUserData holds the messages against a file; "accepted" stands for none.
func TestCheckUserData(t *testing.T) {
	messages := golden.NewMessages(t, "userdata.golden")
	for _, test := range []struct {
		summary  string
		userData string
	}{
		{summary: "cloud-config", userData: "#cloud-config\nusers:\n  - name: root\n"},
		{summary: "nothing but the header", userData: "#cloud-config\n"},
		{summary: "files", userData: "#cloud-config\nwrite_files:\n- path: /x\n"},
		{summary: "files by reference", userData: "#cloud-config\nx: &files [{path: /x}]\nwrite_files: *files\n"},
		{summary: "no list of files", userData: "#cloud-config\nusers: []\nwrite_files:\n"},
		{summary: "one file, not in a list", userData: "#cloud-config\nwrite_files:\n  path: /x\n"},
		{summary: "MIME", userData: "Content-Type: multipart/mixed; boundary=x\nMIME-Version: 1.0\n"},
		{summary: "line ends of Windows", userData: "#cloud-config\r\nusers: []\r\n"},
		{summary: "script", userData: "#!/bin/sh\necho: [\n"},
		{summary: "archive", userData: "#cloud-config-archive\n- type: text/cloud-config\n"},
		{summary: "patch", userData: "#cloud-config-jsonp\n- {op: add, path: /x, value: y}\n"},
		{summary: "template", userData: "## template: jinja\n#cloud-config\nx: {{ y }}\n"},
		{summary: "empty", userData: ""},
		{summary: "no header", userData: "users: []\n"},
		{summary: "header below", userData: "\n#cloud-config\n"},
		{summary: "list", userData: "#cloud-config\n- users\n"},
		{summary: "text", userData: "#cloud-config\n\nusers\n"},
		{summary: "tab", userData: "#cloud-config\nusers:\n\t- name: root\n"},
		{summary: "open list", userData: "#cloud-config\nruncmd:\n  - [a\nusers: []\n"},
		{summary: "key twice", userData: "#cloud-config\nruncmd: [a]\nruncmd: [b]\n"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			message := "accepted"
			if err := cloudinit.CheckUserData("u", []byte(test.userData)); err != nil {
				message = err.Error()
			}
			messages.Check(t, test.summary, message)
		})
	}
}

func FuzzCheckUserData(f *testing.F) {
	for _, seed := range []string{
		"#cloud-config\na: [1, {b: *c}]\n", "#cloud-config\n- &a\n", "#!\n", "#cloud-config\n? x\n: y\n",
	} {
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
