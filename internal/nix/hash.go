package nix

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
)

// Algo is a hash algorithm. The zero value is none.
type Algo uint8

// The algorithms of Nix 2.8. The experimental BLAKE3 of later versions is unknown here.
const (
	MD5 Algo = iota + 1
	SHA1
	SHA256
	SHA512
)

// ParseAlgo returns the algorithm of a name such as "sha256".
func ParseAlgo(name string) (Algo, error) {
	for a := MD5; a <= SHA512; a++ {
		if a.String() == name {
			return a, nil
		}
	}
	return 0, fmt.Errorf("unknown hash algorithm %q: expect md5, sha1, sha256 or sha512", name)
}

// String returns the algorithm's name, "" for none.
func (a Algo) String() string {
	switch a {
	case MD5:
		return "md5"
	case SHA1:
		return "sha1"
	case SHA256:
		return "sha256"
	case SHA512:
		return "sha512"
	default:
		return ""
	}
}

// Size returns the length of a digest in bytes, 0 for none.
func (a Algo) Size() int {
	switch a {
	case MD5:
		return md5.Size
	case SHA1:
		return sha1.Size
	case SHA256:
		return sha256.Size
	case SHA512:
		return sha512.Size
	default:
		return 0
	}
}

// New returns a hash.Hash of the algorithm, nil for none.
func (a Algo) New() hash.Hash {
	switch a {
	case MD5:
		return md5.New()
	case SHA1:
		return sha1.New()
	case SHA256:
		return sha256.New()
	case SHA512:
		return sha512.New()
	default:
		return nil
	}
}

// Hash is a digest with its algorithm. Hashes are comparable with ==. The zero value is none.
type Hash struct {
	algo Algo
	sum  [sha512.Size]byte // the digest, and zeros behind it
}

// NewHash returns the hash of a digest, which must have the algorithm's length.
func NewHash(algo Algo, digest []byte) (Hash, error) {
	if algo.Size() == 0 || len(digest) != algo.Size() {
		return Hash{}, fmt.Errorf("%s hash: wrong length of %d bytes", algo, len(digest))
	}
	h := Hash{algo: algo}
	copy(h.sum[:], digest)
	return h, nil
}

// NewSHA256 returns the hash of a SHA-256 digest.
func NewSHA256(digest [sha256.Size]byte) Hash {
	h := Hash{algo: SHA256}
	copy(h.sum[:], digest[:])
	return h
}

// ParseHash parses any spelling of a hash: SRI, or base16, nix32 or base64 with the algorithm's name and a colon before
// it or without. The algorithm must be known from s or from algo, which is 0 for unknown; if it is from both, they must agree.
func ParseHash(s string, algo Algo) (Hash, error) {
	digits, sri := s, false
	if i := strings.IndexAny(s, ":-"); i >= 0 {
		named, err := ParseAlgo(s[:i])
		if err != nil {
			return Hash{}, fmt.Errorf("parse hash %q: %w", s, err)
		}
		if algo != 0 && algo != named {
			return Hash{}, fmt.Errorf("parse hash %q: should have type %q", s, algo)
		}
		algo, digits, sri = named, s[i+1:], s[i] == '-'
	}
	size := algo.Size()
	if size == 0 {
		return Hash{}, fmt.Errorf("parse hash %q: does not include a type", s)
	}

	var digest []byte
	var err error
	switch {
	case !sri && len(digits) == hex.EncodedLen(size):
		digest, err = hex.DecodeString(digits)
	case !sri && len(digits) == nix32Len(size):
		digest, err = DecodeNix32(digits)
	case sri || len(digits) == base64.StdEncoding.EncodedLen(size):
		// As in Nix, the padding of an SRI hash may be missing.
		digest, err = base64.RawStdEncoding.DecodeString(strings.TrimRight(digits, "="))
	default:
		return Hash{}, fmt.Errorf("parse hash %q: wrong length for %s", s, algo)
	}
	if err != nil {
		return Hash{}, fmt.Errorf("parse hash %q: %w", s, err)
	}
	h, err := NewHash(algo, digest)
	if err != nil {
		return Hash{}, fmt.Errorf("parse hash %q: %w", s, err)
	}
	return h, nil
}

// IsZero reports whether h is none.
func (h Hash) IsZero() bool { return h.algo == 0 }

// Algo returns the algorithm.
func (h Hash) Algo() Algo { return h.algo }

// Digest returns the digest, which is the caller's.
func (h Hash) Digest() []byte { return h.sum[:h.algo.Size()] }

// SHA256 returns the digest of a SHA-256 hash; of another one, ok is false.
func (h Hash) SHA256() (digest [sha256.Size]byte, ok bool) {
	return [sha256.Size]byte(h.sum[:sha256.Size]), h.algo == SHA256
}

// Base16 returns the digest in hexadecimal.
func (h Hash) Base16() string { return hex.EncodeToString(h.Digest()) }

// Nix32 returns the digest in Nix's base 32.
func (h Hash) Nix32() string { return EncodeNix32(h.Digest()) }

// Base64 returns the digest in base 64.
func (h Hash) Base64() string { return base64.StdEncoding.EncodeToString(h.Digest()) }

// SRI returns the hash as Nix prints it for people and in JSON: "sha256-" and base 64. It is "" for none.
func (h Hash) SRI() string {
	if h.IsZero() {
		return ""
	}
	return h.algo.String() + "-" + h.Base64()
}

// String returns the hash as Nix writes it in narinfos, fingerprints and content addresses: "sha256:" and nix32. It is
// "" for none.
func (h Hash) String() string {
	if h.IsZero() {
		return ""
	}
	return h.algo.String() + ":" + h.Nix32()
}
