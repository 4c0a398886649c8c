package spec

import (
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/mkappliance/mkappliance/internal/release"
)

// keyNamePattern matches names that mean the same in every directory and shell.
var keyNamePattern = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._-]*\.pub$`)

// update reads [image.NAME.update].
func (d *decoder) update(t *table, version string) Update {
	u := Update{
		Keys:          d.updateKeys(t),
		Channel:       cmp.Or(t.optionalText("channel"), "stable"),
		Severity:      release.Severity(cmp.Or(t.optionalText("severity"), string(release.Low))),
		MinVersion:    t.optionalText("min-version"),
		RollbackFloor: t.optionalText("rollback-floor"),
		MinAgent:      t.optionalText("min-agent"),
		Delta:         t.optionalBool("delta", true),
	}
	t.end()

	if err := release.CheckChannel(u.Channel); err != nil {
		d.fail(t.sub("channel"), "channel %v", err)
	}
	if err := u.Severity.Check(); err != nil {
		d.fail(t.sub("severity"), "severity %v", err)
	}
	for _, o := range u.olderVersions() {
		if err := release.CheckVersion(o.version); o.version != "" && err != nil {
			d.fail(t.sub(o.key), "%v", err)
		}
		if err := o.check(version); version != "" && err != nil {
			d.fail(t.sub(o.key), "%v", err)
		}
	}
	if err := release.CheckAgent(u.MinAgent); u.MinAgent != "" && err != nil {
		d.fail(t.sub("min-agent"), "min-agent %v", err)
	}
	return u
}

// CheckVersion returns an error if an image of the version cannot have the other
// versions that u names.
func (u *Update) CheckVersion(version string) error {
	for _, o := range u.olderVersions() {
		if err := o.check(version); err != nil {
			return err
		}
	}
	return nil
}

// olderVersion is a key whose version must not be newer than the image's.
type olderVersion struct{ key, version string }

func (u *Update) olderVersions() []olderVersion {
	return []olderVersion{{"min-version", u.MinVersion}, {"rollback-floor", u.RollbackFloor}}
}

func (o olderVersion) check(version string) error {
	if o.version != "" && release.Compare(o.version, version) > 0 {
		return fmt.Errorf("%s %s is newer than the image's version %s; use an older one", o.key, o.version, version)
	}
	return nil
}

// updateKeys reads the key files that a table lists.
func (d *decoder) updateKeys(t *table) []UpdateKey {
	var keys []UpdateKey
	for i, path := range t.optionalList("keys") {
		at := fmt.Sprintf("%s[%d]", t.sub("keys"), i)
		name := filepath.Base(path)
		if !keyNamePattern.MatchString(name) {
			d.fail(at, "key file %q does not end in .pub or has characters other than letters, digits and '._-'", name)
			continue
		}
		if slices.ContainsFunc(keys, func(k UpdateKey) bool { return k.Name == name }) {
			d.fail(at, "two key files are named %s; rename one", name)
			continue
		}

		key, err := release.ReadKey(d.resolve(path))
		if err != nil {
			d.fail(at, "%v; make one with 'mkappliance keygen'", err)
			continue
		}
		text, err := key.MarshalText()
		if err != nil {
			d.fail(at, "%v", err)
		}
		keys = append(keys, UpdateKey{Name: name, Content: string(text) + "\n"})
	}
	return keys
}
