// Package token takes claims and returns signed tokens and the key set that proves them; its keys are made when it runs and kept in memory.
package token

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"time"
)

const (
	keyBits = 2048
	keyID   = "testbed"
)

// Claims are what a token says.
type Claims map[string]any

// With is a copy with other claims laid over; nil takes one out.
func (c Claims) With(other Claims) Claims {
	merged := maps.Clone(c)
	for name, value := range other {
		if value == nil {
			delete(merged, name)
			continue
		}
		merged[name] = value
	}
	return merged
}

// Expiring is a copy that holds for so long; a negative time makes it an expired one.
func (c Claims) Expiring(in time.Duration) Claims {
	return c.With(Claims{"exp": time.Now().Add(in).Unix()})
}

// Mint signs tokens with a key of its own.
type Mint struct {
	key *rsa.PrivateKey
}

// NewMint makes a key.
func NewMint() (*Mint, error) {
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, fmt.Errorf("generating a mint's key: %w", err)
	}
	return &Mint{key: key}, nil
}

// JWKS is the key set with the mint's public key. Every mint calls its key the same, so that a forged token differs in nothing but its signature.
func (m *Mint) JWKS() string {
	exponent := big.NewInt(int64(m.key.E)).Bytes()
	return fmt.Sprintf(`{"keys":[{"kty":"RSA","use":"sig","alg":"RS256","kid":%q,"n":%q,"e":%q}]}`, keyID, encode(m.key.N.Bytes()), encode(exponent))
}

// Sign makes a token.
func (m *Mint) Sign(claims Claims) (string, error) {
	header, err := json.Marshal(map[string]string{"alg": "RS256", "typ": "JWT", "kid": keyID})
	if err != nil {
		return "", fmt.Errorf("encoding a token's header: %w", err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encoding a token's claims: %w", err)
	}
	signed := encode(header) + "." + encode(payload)
	digest := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, m.key, crypto.SHA256, digest[:])
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	return signed + "." + encode(signature), nil
}

func encode(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }
