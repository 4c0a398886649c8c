package powercut

import (
	"bytes"
	"debug/pe"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/mkappliance/mkappliance/internal/osrelease"
	"github.com/mkappliance/mkappliance/internal/release"
	"github.com/mkappliance/mkappliance/internal/verity"
)

// bootEntry is a UKI as systemd-boot sees it.
type bootEntry struct {
	name    string // of the file
	sortKey string
	version string
	left    int // attempts; -1 if they are not counted
	root    verity.Digest
	content []byte
}

var counted = regexp.MustCompile(`^(.*)\+([0-9]+)(?:-[0-9]+)?(\.efi)$`)

// id returns the name without its counters, by which entries of one version are
// told apart last.
func (e bootEntry) id() string {
	if m := counted.FindStringSubmatch(e.name); m != nil {
		return strings.ToLower(m[1] + m[3])
	}
	return strings.ToLower(e.name)
}

// parseEntry reads a UKI. systemd-boot leaves out files that are none.
func parseEntry(name string, content []byte) (bootEntry, error) {
	e := bootEntry{name: name, left: -1, content: content}
	if m := counted.FindStringSubmatch(name); m != nil {
		e.left, _ = strconv.Atoi(m[2]) // digits
	}
	f, err := pe.NewFile(bytes.NewReader(content))
	if err != nil {
		return e, err
	}
	section := func(name string) ([]byte, error) {
		s := f.Section(name)
		if s == nil {
			return nil, errors.New("it has no section " + name)
		}
		data, err := s.Data()
		return bytes.TrimRight(data, "\x00"), err
	}

	release, err := section(".osrel")
	if err != nil {
		return e, err
	}
	fields := osrelease.Parse(release)
	e.sortKey, e.version = fields["IMAGE_ID"], fields["IMAGE_VERSION"]

	cmdline, err := section(".cmdline")
	if err != nil {
		return e, err
	}
	for _, word := range strings.Fields(string(cmdline)) {
		if hash, ok := strings.CutPrefix(word, "roothash="); ok {
			e.root, err = verity.ParseDigest(hash)
			return e, err
		}
	}
	return e, errors.New("its command line has no root hash")
}

// choose returns the entry that systemd-boot 257 starts by itself: without a
// default that somebody set, the first in its order (src/boot/boot.c,
// boot_entry_compare and config_select_default_entry). Entries with no attempt left
// come last. The others are in the order of their sort key, which is IMAGE_ID, then
// the newest IMAGE_VERSION, then the greatest name without counters, then most
// attempts left.
func choose(entries []bootEntry) (bootEntry, bool) {
	if len(entries) == 0 {
		return bootEntry{}, false
	}
	return slices.MinFunc(entries, func(a, b bootEntry) int {
		switch {
		case (a.left == 0) != (b.left == 0):
			return boolean(a.left == 0) - boolean(b.left == 0)
		case a.sortKey != b.sortKey:
			return strings.Compare(a.sortKey, b.sortKey)
		case release.Compare(a.version, b.version) != 0:
			return release.Compare(b.version, a.version)
		case a.id() != b.id():
			return release.Compare(b.id(), a.id())
		case a.left < 0 || b.left < 0:
			return 0
		}
		return b.left - a.left
	}), true
}

func boolean(b bool) int {
	if b {
		return 1
	}
	return 0
}
