package main

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"time"

	"github.com/mkappliance/mkappliance/ci/stubrunner/internal/files"
)

// rsaParams is the file .credentials_rsaparams: big-endian numbers in base64.
type rsaParams struct {
	D        []byte `json:"d"`
	DP       []byte `json:"dp"`
	DQ       []byte `json:"dq"`
	Exponent []byte `json:"exponent"`
	InverseQ []byte `json:"inverseQ"`
	Modulus  []byte `json:"modulus"`
	P        []byte `json:"p"`
	Q        []byte `json:"q"`
}

func createKey(r files.Root) (*rsa.PrivateKey, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	p := rsaParams{
		D: key.D.Bytes(), Exponent: big.NewInt(int64(key.E)).Bytes(), Modulus: key.N.Bytes(),
		P: key.Primes[0].Bytes(), Q: key.Primes[1].Bytes(),
		DP: key.Precomputed.Dp.Bytes(), DQ: key.Precomputed.Dq.Bytes(), InverseQ: key.Precomputed.Qinv.Bytes(),
	}
	return key, files.SaveJSON(r.Path(".credentials_rsaparams"), p, 0o600)
}

func keyXML(key *rsa.PublicKey) string {
	b64 := base64.StdEncoding.EncodeToString
	return "<RSAKeyValue><Modulus>" + b64(key.N.Bytes()) + "</Modulus><Exponent>" +
		b64(big.NewInt(int64(key.E)).Bytes()) + "</Exponent></RSAKeyValue>"
}

func loadKey(r files.Root) (*rsa.PrivateKey, error) {
	var p rsaParams
	if err := files.LoadJSON(r.Path(".credentials_rsaparams"), &p); err != nil {
		return nil, err
	}
	number := func(b []byte) *big.Int { return new(big.Int).SetBytes(b) }
	key := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: number(p.Modulus), E: int(number(p.Exponent).Int64())},
		D: number(p.D), Primes: []*big.Int{number(p.P), number(p.Q)}}
	key.Precompute()
	return key, key.Validate()
}

// signJWT returns a client assertion, with PS256 as requireFipsCryptography wants.
func signJWT(key *rsa.PrivateKey, clientID, audience string) (string, error) {
	now := time.Now().Unix()
	claims, err := json.Marshal(map[string]any{"sub": clientID, "iss": clientID, "aud": audience, "nbf": now,
		"exp": now + 300, "jti": fmt.Sprint(time.Now().UnixNano())})
	if err != nil {
		return "", err
	}
	b64 := base64.RawURLEncoding.EncodeToString
	signed := b64([]byte(`{"typ":"JWT","alg":"PS256"}`)) + "." + b64(claims)
	sum := sha256.Sum256([]byte(signed))
	options := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
	sig, err := rsa.SignPSS(rand.Reader, key, crypto.SHA256, sum[:], options)
	return signed + "." + b64(sig), err
}
