package cloudinit_test

import (
	"bytes"
	"encoding/base64"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"

	cloudinit "github.com/mkappliance/mkappliance/cloud-init"
)

const configEnv = "RUNNER_GITHUB_URL=https://github.com/octo/hello\n"

// ownPart is the cloud-config that writes configEnv.
const ownPart = `#cloud-config
merge_how:
  - name: list
    settings: [append]
  - name: dict
    settings: [no_replace, recurse_list]
write_files:
  - path: /etc/runner/config.env
    owner: root:root
    permissions: '0600'
    encoding: b64
    content: UlVOTkVSX0dJVEhVQl9VUkw9aHR0cHM6Ly9naXRodWIuY29tL29jdG8vaGVsbG8K
`

// write makes a seed and reads its label and its files back.
func write(t *testing.T, s cloudinit.Seed) (label, userData, metaData string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "seed.iso")
	if err := s.Write(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("got mode %v, %v; want 0600, for it holds the token", info.Mode(), err)
	}

	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	fs, err := iso9660.Read(file.New(f, true), info.Size(), 0, 2048)
	if err != nil {
		t.Fatal(err)
	}

	read := func(name string) string {
		f, err := fs.OpenFile(name, os.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	return strings.TrimRight(fs.Label(), " \x00"), read("user-data"), read("meta-data")
}

func TestSeed(t *testing.T) {
	label, userData, metaData := write(t, cloudinit.Seed{ConfigEnv: []byte(configEnv)})
	if label != "CIDATA" {
		t.Errorf("got label %q", label)
	}
	if userData != ownPart {
		t.Errorf("got user-data\n%s", userData)
	}
	if !regexp.MustCompile(`^instance-id: iid-[0-9a-f]{16}\n$`).MatchString(metaData) {
		t.Errorf("got meta-data\n%s", metaData)
	}
}

func TestSeedNames(t *testing.T) {
	_, _, metaData := write(t, cloudinit.Seed{Hostname: "builder-7.example", InstanceID: "i-1"})
	if want := "instance-id: i-1\nlocal-hostname: builder-7.example\n"; metaData != want {
		t.Errorf("got %q, want %q", metaData, want)
	}
}

// TestInstanceIDFollowsContent: cloud-init applies a seed once for an id.
func TestInstanceIDFollowsContent(t *testing.T) {
	seen := map[string]string{}
	for _, test := range []struct {
		summary string
		seed    cloudinit.Seed
	}{
		{summary: "plain", seed: cloudinit.Seed{ConfigEnv: []byte("A=1")}},
		{summary: "config.env", seed: cloudinit.Seed{ConfigEnv: []byte("A=2")}},
		{summary: "user-data", seed: cloudinit.Seed{ConfigEnv: []byte("A=1"), UserData: []byte("#!/bin/sh\n")}},
		{summary: "host name", seed: cloudinit.Seed{ConfigEnv: []byte("A=1"), Hostname: "h"}},
	} {
		_, _, first := write(t, test.seed)
		_, _, again := write(t, test.seed)
		if first != again {
			t.Errorf("%s: the same seed has ids %q and %q", test.summary, first, again)
		}
		id, _, _ := strings.Cut(first, "\n")
		if other, ok := seen[id]; ok {
			t.Errorf("%s and %s have the same %s", test.summary, other, id)
		}
		seen[id] = test.summary
	}
}

// TestSeedWithUserData reads the user-data as a mail reader would.
func TestSeedWithUserData(t *testing.T) {
	own := "#cloud-config\nwrite_files:\n  - path: /x\n    content: |\n" +
		strings.Repeat("      däta\n", 200_000) // some MiB
	_, userData, _ := write(t, cloudinit.Seed{ConfigEnv: []byte(configEnv), UserData: []byte(own)})

	message, err := mail.ReadMessage(strings.NewReader(userData))
	if err != nil {
		t.Fatal(err)
	}
	kind, parameters, err := mime.ParseMediaType(message.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/mixed" || message.Header.Get("MIME-Version") != "1.0" {
		t.Fatalf("got header %v, %v", message.Header, err)
	}

	parts := multipart.NewReader(message.Body, parameters["boundary"])
	for _, want := range []string{own, ownPart} {
		part, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		if kind := part.Header.Get("Content-Type"); kind != `text/cloud-config; charset="utf-8"` {
			t.Errorf("got part of type %s", kind)
		}
		if encoding := part.Header.Get("Content-Transfer-Encoding"); encoding != "base64" {
			t.Errorf("got a part in %s, which cloud-init may not decode", encoding)
		}
		got, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, part))
		if err != nil || !bytes.Equal(got, []byte(want)) {
			t.Errorf("got part of %d bytes, %v; want %d bytes", len(got), err, len(want))
		}
	}
	if _, err := parts.NextPart(); err != io.EOF {
		t.Errorf("got %v, want no third part", err)
	}
}

func TestSeedRefuses(t *testing.T) {
	const hostname = "want letters, digits and dashes, in parts of up to 63 that dots may join"
	for _, test := range []struct {
		summary string
		seed    cloudinit.Seed
		want    string // after "cannot make seed: "
	}{
		{
			summary: "host name with a blank",
			seed:    cloudinit.Seed{Hostname: "two words"},
			want:    `cannot use host name "two words": ` + hostname,
		},
		{
			summary: "host name of two lines",
			seed:    cloudinit.Seed{Hostname: "a\nb: c"},
			want:    `cannot use host name "a\nb: c": ` + hostname,
		},
		{
			summary: "instance id",
			seed:    cloudinit.Seed{InstanceID: "a: b"},
			want:    `cannot use instance id "a: b": want letters, digits, dots, dashes and underscores`,
		},
		{
			summary: "user-data",
			seed:    cloudinit.Seed{UserData: []byte("x")},
			want:    "user-data has none of cloud-init's headers",
		},
	} {
		t.Run(test.summary, func(t *testing.T) {
			dir := t.TempDir()
			err := test.seed.Write(filepath.Join(dir, "seed.iso"))
			if want := "cannot make seed: " + test.want; err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
			if left, _ := os.ReadDir(dir); len(left) != 0 {
				t.Errorf("left %v behind", left)
			}
		})
	}
}
