package upgrade

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/mkappliance/mkappliance/internal/release"
)

// RefusedError is the error of a version, or a channel, that this appliance must
// not install from. Nothing has been written.
type RefusedError struct{ reason error }

func (e *RefusedError) Error() string { return "refused: " + e.reason.Error() }
func (e *RefusedError) Unwrap() error { return e.reason }

func refuse(format string, args ...any) error { return &RefusedError{fmt.Errorf(format, args...)} }

// Release is a version that can be installed, with everything that its signature
// vouches for.
type Release struct {
	release.Manifest
	base string // URL of its directory; empty if it is that of the index
}

// maxClockError is how far the clock may be behind the time of the index: that of
// an index lies in the past.
const maxClockError = 24 * time.Hour

// Find returns the newest version of the channel that this appliance can install,
// or nil if it runs that. With a version it returns that one, even if it is older
// or from another channel.
func (u *Upgrader) Find(ctx context.Context, s *State, version string) (*Release, error) {
	if len(u.Keys) == 0 {
		return nil, refuse("this image has no update key, so that nothing can be trusted; " +
			"list one in update.keys of images.toml, and flash the image once more")
	}
	data, err := u.readSigned(ctx, "", release.IndexName, release.MaxIndex)
	if err != nil {
		return nil, err
	}
	index, err := release.DecodeIndex(data)
	if err != nil {
		return nil, &RefusedError{err}
	}
	if behind := index.Time.Sub(u.Now()); behind > maxClockError {
		return nil, refuse("the clock of this appliance shows %s, before %s was written (%s); "+
			"let NTP reach a time server (timedatectl shows the state)",
			u.Now().UTC().Format(time.DateOnly), release.IndexName, index.Time.Format(time.DateOnly))
	}

	entry, err := u.choose(index, s, version)
	if entry == nil || err != nil {
		return nil, err
	}
	return u.readRelease(ctx, s, entry)
}

// choose returns the entry to install; nil for none.
func (u *Upgrader) choose(x *release.Index, s *State, version string) (*release.Entry, error) {
	if version != "" {
		e := x.Find(u.Host.Image, version)
		if e == nil {
			return nil, refuse("%s does not list version %.80q of %s; it lists %s",
				release.IndexName, version, u.Host.Image, listed(x, u.Host.Image))
		}
		return e, nil
	}

	var beyond *release.Entry // the newest that cannot be reached in one step
	known := false
	for i, e := range x.Releases {
		if e.Image != u.Host.Image {
			continue
		}
		known = true
		if e.Channel != u.Channel || release.Compare(e.Version, u.Host.Version) <= 0 || s.failed(e.Version) {
			continue
		}
		if e.MinVersion == "" || release.Compare(u.Host.Version, e.MinVersion) >= 0 {
			return &x.Releases[i], nil
		}
		if beyond == nil {
			beyond = &x.Releases[i]
		}
	}
	switch {
	case beyond != nil:
		return nil, errStep(beyond.Version, beyond.MinVersion, u.Host.Version)
	case !known:
		return nil, refuse("%s lists no version of %s, the image of this appliance", release.IndexName, u.Host.Image)
	}
	return nil, nil
}

func errStep(version, needs, running string) error {
	return refuse("version %s can be installed from %s on, this appliance runs %s; "+
		"publish a version between them, and install it first", version, needs, running)
}

// listed returns the versions of an image for a message.
func listed(x *release.Index, image string) string {
	var versions []string
	for _, e := range x.Releases {
		if e.Image == image {
			versions = append(versions, e.Version)
		}
	}
	switch {
	case len(versions) == 0:
		return "none"
	case len(versions) > 5:
		return strings.Join(versions[:5], ", ") + " and older ones"
	}
	return strings.Join(versions, ", ")
}

// readRelease reads and checks the manifest of an entry.
func (u *Upgrader) readRelease(ctx context.Context, s *State, e *release.Entry) (*Release, error) {
	data, err := u.readSigned(ctx, e.Base, e.Manifest, release.MaxManifest)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != e.SHA256 {
		return nil, refuse("%s: not the file that %s lists; it was replaced after publishing", e.Manifest, release.IndexName)
	}
	m, err := release.DecodeManifest(e.Manifest, data)
	if err != nil {
		return nil, &RefusedError{err}
	}
	if err := e.CheckManifest(m); err != nil {
		return nil, &RefusedError{err}
	}
	if err := u.checkConditions(m, s); err != nil {
		return nil, err
	}
	return &Release{Manifest: *m, base: e.Base}, nil
}

// checkConditions compares what a manifest asks for with this appliance.
func (u *Upgrader) checkConditions(m *release.Manifest, s *State) error {
	h := u.Host
	switch {
	case m.Image != h.Image:
		return refuse("the manifest is of image %s, this appliance runs %s", m.Image, h.Image)
	case m.Architecture != h.Architecture:
		return refuse("version %s is for %s, this appliance is %s", m.Version, m.Architecture, h.Architecture)
	case release.Compare(m.Version, h.Version) == 0:
		return refuse("version %s runs already", m.Version)
	case m.MinVersion != "" && release.Compare(h.Version, m.MinVersion) < 0:
		return errStep(m.Version, m.MinVersion, h.Version)
	case s.Floor != "" && release.Compare(m.Version, s.Floor) < 0:
		return refuse("version %s is below %s, the oldest that version %s allows to go back to",
			m.Version, s.Floor, s.FloorBy)
	case m.MinAgent != "" && release.Compare(h.Agent, m.MinAgent) < 0:
		return refuse("version %s needs runner-agent %s or newer to install it, this one is %s; flash the image anew",
			m.Version, m.MinAgent, h.Agent)
	}
	return nil
}

// readSigned reads a file and its signature, and verifies it.
func (u *Upgrader) readSigned(ctx context.Context, base, name string, limit int64) ([]byte, error) {
	signature, err := u.read(ctx, base, name+release.SignatureSuffix, release.MaxSignature)
	if err != nil {
		return nil, err
	}
	data, err := u.read(ctx, base, name, limit)
	if err != nil {
		return nil, err
	}
	if err := release.Verify(u.Keys, name, data, signature); err != nil {
		if errors.Is(err, release.ErrUnknownKey) {
			err = fmt.Errorf("%w; the keys of this image are %s", err, u.keyIDs())
		}
		return nil, &RefusedError{err}
	}
	return data, nil
}

func (u *Upgrader) keyIDs() string {
	var ids []string
	for _, k := range u.Keys {
		ids = append(ids, release.KeyID(k.ID()))
	}
	return strings.Join(ids, ", ")
}

// read reads a file of at most limit bytes, with several attempts.
func (u *Upgrader) read(ctx context.Context, base, name string, limit int64) ([]byte, error) {
	var data []byte
	err := u.retry(ctx, func() error {
		body, err := u.channel.open(ctx, base, name, span{0, limit + 1}, -1)
		if err != nil {
			return err
		}
		defer body.Close()
		data, err = io.ReadAll(body)
		return err
	})
	if err == nil && int64(len(data)) > limit {
		return nil, refuse("%s: more than %d KiB", name, limit>>10)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s of %s: %w", name, u.Source, err)
	}
	return data, nil
}

// retry tries again what may pass: not an answer that a file is missing.
func (u *Upgrader) retry(ctx context.Context, do func() error) error {
	return retry(ctx, u.pause, do, func(err error) bool {
		status := (*statusError)(nil)
		return errors.Is(err, fs.ErrNotExist) || errors.As(err, &status) && status.status/100 == 4
	})
}

// retry calls do until it succeeds, fails for good, or has had its attempts. The
// first pause between two is the given one, and each next one twice as long.
func retry(ctx context.Context, pause time.Duration, do func() error, forGood func(error) bool) error {
	for attempt := 1; ; attempt++ {
		err := do()
		if err == nil || ctx.Err() != nil || attempt == attempts || forGood(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
			pause *= 2
		}
	}
}
