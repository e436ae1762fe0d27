package token

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"strings"
	"testing"
	"time"
)

func TestTokenIsProvenByItsMintAlone(t *testing.T) {
	mint, other := newMint(t), newMint(t)
	signed, err := mint.Sign(Claims{"iss": "a", "sub": "b"}.With(Claims{"sub": nil, "role": "learner"}).Expiring(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(t, mint.JWKS(), signed); err != nil {
		t.Errorf("its own key: %v", err)
	}
	if err := verify(t, other.JWKS(), signed); err == nil {
		t.Error("another key proves it too")
	}
	var got map[string]any
	if err := json.Unmarshal(decode(t, strings.Split(signed, ".")[1]), &got); err != nil {
		t.Fatal(err)
	}
	if got["iss"] != "a" || got["role"] != "learner" || got["exp"].(float64) < float64(time.Now().Unix()) {
		t.Errorf("got %v", got)
	}
	if _, ok := got["sub"]; ok {
		t.Error("the subject is still there")
	}
}

func newMint(t *testing.T) *Mint {
	t.Helper()
	mint, err := NewMint()
	if err != nil {
		t.Fatal(err)
	}
	return mint
}

func verify(t *testing.T, jwks, signed string) error {
	t.Helper()
	var set struct {
		Keys []struct{ N, E string }
	}
	if err := json.Unmarshal([]byte(jwks), &set); err != nil {
		t.Fatal(err)
	}
	key := &rsa.PublicKey{N: new(big.Int).SetBytes(decode(t, set.Keys[0].N)), E: int(new(big.Int).SetBytes(decode(t, set.Keys[0].E)).Int64())}
	at := strings.LastIndexByte(signed, '.')
	digest := sha256.Sum256([]byte(signed[:at]))
	return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], decode(t, signed[at+1:]))
}

func decode(t *testing.T, text string) []byte {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
