package oci

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"path/filepath"
	"slices"
	"time"

	"github.com/mkappliance/mkappliance/internal/atomicfile"
)

// ref is what a name stood for when it was last resolved.
type ref struct {
	Name   string
	Digest string    // of the index or the manifest that the registry named
	Image  string    // directory beneath images
	Time   time.Time // when it was resolved first
	Public bool      // the registry answered without credentials
	Grants []grant   `json:",omitempty"` // credentials that it accepted, the latest last
}

// maxGrants is how many credentials a ref keeps: those of most jobs are tokens
// that no other job has.
const maxGrants = 4

// permits reports whether the registry has accepted these credentials, or asked
// for none.
func (r *ref) permits(c *Credentials) bool {
	if r == nil {
		return false
	}
	return r.Public || c != nil && slices.ContainsFunc(r.Grants, func(g grant) bool { return g.isFor(c) })
}

// permit adds credentials, or none, that the registry accepted.
func (r *ref) permit(c *Credentials) error {
	if c == nil {
		r.Public = true
		return nil
	}
	g, err := newGrant(c)
	r.Grants = append(r.Grants, g)
	r.Grants = r.Grants[max(0, len(r.Grants)-maxGrants):]
	return err
}

// grant proves knowledge of credentials and does not contain them.
type grant struct {
	Salt, Key []byte
}

// grantRounds are the rounds of PBKDF2, RFC 8018: some milliseconds. Registries
// are used with random tokens more than with passwords.
const grantRounds = 1 << 14

func newGrant(c *Credentials) (grant, error) {
	g := grant{Salt: make([]byte, 16)}
	rand.Read(g.Salt) // never fails
	var err error
	g.Key, err = c.derive(g.Salt)
	return g, err
}

func (g grant) isFor(c *Credentials) bool {
	key, err := c.derive(g.Salt)
	return err == nil && hmac.Equal(key, g.Key)
}

// derive returns a key that only these credentials lead to.
func (c *Credentials) derive(salt []byte) ([]byte, error) {
	user := sha256.Sum256([]byte(c.Username)) // of fixed length, so that nothing moves to the password
	return pbkdf2.Key(sha256.New, string(user[:])+c.Password, salt, grantRounds, sha256.Size)
}

// refFile returns the file of a name, which can have slashes itself, beneath the
// store's directory.
func (s *Store) refFile(name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join("refs", hex.EncodeToString(sum[:]))
}

// lookUpRef returns what a name stood for, or nil if that is unknown.
func (s *Store) lookUpRef(name string) *ref {
	r, err := s.readRef(s.refFile(name))
	if err != nil || r.Name != name || r.Image != filepath.Base(r.Image) {
		return nil
	}
	return r
}

func (s *Store) readRef(file string) (*ref, error) {
	data, err := s.readFile(file)
	if err != nil {
		return nil, err
	}
	var r ref
	return &r, json.Unmarshal(data, &r)
}

// remember writes down what a name stands for, and that the registry said so to
// someone with these credentials, or with none, unless all that is known.
func (s *Store) remember(name, digest string, image *Image, c *Credentials) error {
	r := ref{Name: name, Digest: digest, Image: image.hex(), Time: time.Now()}
	if known := s.lookUpRef(name); known != nil && known.Digest == r.Digest && known.Image == r.Image {
		if known.permits(c) {
			return nil
		}
		r = *known
	}

	if err := r.permit(c); err != nil {
		return err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(s.Dir, s.refFile(name)), data, 0o600)
}
