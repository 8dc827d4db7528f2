package nix

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// Signature is a key's signature of a fingerprint. Signatures are comparable with ==. The zero value is none.
type Signature struct {
	KeyName string
	Data    [ed25519.SignatureSize]byte
}

// ParseSignature parses "name:base64". Nix 2.8 stores anything that a client calls a signature, and later versions then
// refuse the whole path info; so what this refuses must not be stored.
func ParseSignature(s string) (Signature, error) {
	sig := Signature{}
	name, err := parseNamed(s, sig.Data[:])
	if err != nil {
		return Signature{}, fmt.Errorf("parse signature %q: %w", s, err)
	}
	sig.KeyName = name
	return sig, nil
}

// String returns "name:base64".
func (s Signature) String() string { return s.KeyName + ":" + s.base64() }

func (s Signature) base64() string { return base64.StdEncoding.EncodeToString(s.Data[:]) }

// Compare orders signatures as Nix orders them in sets: by key name, then by their bytes.
func (s Signature) Compare(t Signature) int {
	return cmp.Or(strings.Compare(s.KeyName, t.KeyName), bytes.Compare(s.Data[:], t.Data[:]))
}

// PublicKey verifies signatures of the key that has the same name. Public keys are comparable with ==. The zero value verifies nothing.
type PublicKey struct {
	name string
	key  [ed25519.PublicKeySize]byte
}

// ParsePublicKey parses "name:base64", as in trusted-public-keys and in the file that Nix's key commands write.
func ParsePublicKey(s string) (PublicKey, error) {
	k := PublicKey{}
	name, err := parseNamed(strings.TrimSpace(s), k.key[:])
	if err != nil {
		return PublicKey{}, fmt.Errorf("parse public key %q: %w", s, err)
	}
	k.name = name
	return k, nil
}

// Name returns the key's name.
func (k PublicKey) Name() string { return k.name }

// String returns "name:base64".
func (k PublicKey) String() string {
	return k.name + ":" + base64.StdEncoding.EncodeToString(k.key[:])
}

// Verify reports whether s is this key's signature of message.
func (k PublicKey) Verify(message string, s Signature) bool {
	return k.name != "" && k.name == s.KeyName && ed25519.Verify(k.key[:], []byte(message), s.Data[:])
}

// SecretKey makes signatures. The zero value must not be used.
type SecretKey struct {
	name string
	key  ed25519.PrivateKey
}

// GenerateSecretKey makes a new key. The name must have no colon, no white space and no control characters, and should tell
// whose key it is, with a number for its successors: "cache.example.org-1".
func GenerateSecretKey(name string) (SecretKey, error) {
	if err := checkKeyName(name); err != nil {
		return SecretKey{}, fmt.Errorf("generate secret key: %w", err)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return SecretKey{}, fmt.Errorf("generate secret key %q: %w", name, err)
	}
	return SecretKey{name: name, key: key}, nil
}

// ParseSecretKey parses "name:base64" of seed and public key, as Nix's key commands write it. Errors do not contain s.
func ParseSecretKey(s string) (SecretKey, error) {
	key := make(ed25519.PrivateKey, ed25519.PrivateKeySize)
	name, err := parseNamed(strings.TrimSpace(s), key)
	if err != nil {
		return SecretKey{}, fmt.Errorf("parse secret key: %w", err)
	}
	if !bytes.Equal(key, ed25519.NewKeyFromSeed(key.Seed())) {
		// Signing with such a pair would give away the secret.
		return SecretKey{}, fmt.Errorf("parse secret key %q: its public half does not belong to it", name)
	}
	return SecretKey{name: name, key: key}, nil
}

// Name returns the key's name.
func (k SecretKey) Name() string { return k.name }

// Export returns what ParseSecretKey parses: the secret itself.
func (k SecretKey) Export() string {
	return k.name + ":" + base64.StdEncoding.EncodeToString(k.key)
}

// String returns the name and not the secret, so that a key may get into a log by mistake.
func (k SecretKey) String() string { return k.name + ":(secret)" }

// GoString returns the same as String.
func (k SecretKey) GoString() string { return k.String() }

// Public returns the key that verifies what k signs.
func (k SecretKey) Public() PublicKey {
	return PublicKey{name: k.name, key: [ed25519.PublicKeySize]byte(k.key[ed25519.SeedSize:])}
}

// Sign returns the signature of message.
func (k SecretKey) Sign(message string) Signature {
	return Signature{
		KeyName: k.name,
		Data:    [ed25519.SignatureSize]byte(ed25519.Sign(k.key, []byte(message))),
	}
}

// parseNamed parses "name:base64" of exactly len(dst) bytes. Its errors do not contain the bytes.
func parseNamed(s string, dst []byte) (name string, err error) {
	name, text, ok := strings.Cut(s, ":")
	if !ok {
		return "", errors.New("not in the form <name>:<base64>")
	}
	if err := checkKeyName(name); err != nil {
		return "", err
	}
	// DecodeString skips line breaks; a signature with one would forge lines of a narinfo where it is copied unparsed.
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(text) != base64.StdEncoding.EncodedLen(len(dst)) || len(b) != len(dst) {
		return "", fmt.Errorf("not the base64 of %d bytes behind %q", len(dst), name)
	}
	copy(dst, b)
	return name, nil
}

// checkKeyName refuses what would not survive its way through the texts in which signatures stand: lists separated by spaces,
// the lines of a narinfo.
func checkKeyName(name string) error {
	if name == "" {
		return errors.New("key name is empty")
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c == ':' || c == 0x7f {
			return fmt.Errorf("key name %q contains illegal character %q", name, c)
		}
	}
	return nil
}
