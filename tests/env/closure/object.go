package closure

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
)

// StoreDir is where all objects are.
const StoreDir = "/nix/store"

// Object is a store object.
type Object struct {
	Path       string
	References []string // sorted; may hold Path itself
	Deriver    string   // may be empty
	CA         string   // content address; may be empty
	Hash       [32]byte // SHA-256 of the NAR
	Size       int64    // of the NAR

	root node
}

// WriteNAR writes the object's NAR.
func (o *Object) WriteNAR(w io.Writer) error {
	out := NewWriter(w)
	out.Text("nix-archive-1")
	if err := o.root.write(out); err != nil {
		return fmt.Errorf("NAR of %s: %w", o.Path, err)
	}
	return out.Flush()
}

// HashText returns the hash of the NAR as Nix prints it: sha256:, then Nix's base 32.
func (o *Object) HashText() string { return "sha256:" + Base32(o.Hash[:]) }

// measure computes the hash and the size of the NAR.
func (o *Object) measure() error {
	m := meter{sum: sha256.New()}
	if err := o.WriteNAR(&m); err != nil {
		return err
	}
	m.sum.Sum(o.Hash[:0])
	o.Size = m.size
	return nil
}

type meter struct {
	sum  hash.Hash
	size int64
}

func (m *meter) Write(p []byte) (int, error) {
	m.size += int64(len(p))
	return m.sum.Write(p)
}

// inputAddressed returns an object whose path depends on a salt and its name alone. Its contents come from a function,
// because they may name it.
func inputAddressed(salt, name string, references []string, contents func(self string) node) (*Object, error) {
	sum := sha256.Sum256([]byte(salt + ":" + name))
	path := storePath("output:out", hex.EncodeToString(sum[:]), name)
	o := &Object{Path: path, References: slices.Sorted(slices.Values(references)), root: contents(path)}
	return o, o.measure()
}

// textObject returns an object that is content-addressed as text.
func textObject(name string, references []string, text string) (*Object, error) {
	sum := sha256.Sum256([]byte(text))
	o := &Object{References: slices.Sorted(slices.Values(references)), root: file{text: text}}
	o.Path = storePath(withReferences("text", o.References), hex.EncodeToString(sum[:]), name)
	o.CA = "text:sha256:" + Base32(sum[:])
	return o, o.measure()
}

// source returns an object that is content-addressed by its NAR.
func source(name string, references []string, root node) (*Object, error) {
	o := &Object{References: slices.Sorted(slices.Values(references)), root: root}
	if err := o.measure(); err != nil {
		return nil, err
	}
	o.Path = storePath(withReferences("source", o.References), hex.EncodeToString(o.Hash[:]), name)
	o.CA = "fixed:r:sha256:" + Base32(o.Hash[:])
	return o, nil
}

// fixed returns an object that is content-addressed by the contents of its one file.
func fixed(name, text string) (*Object, error) {
	sum := sha256.Sum256([]byte(text))
	inner := sha256.Sum256([]byte("fixed:out:sha256:" + hex.EncodeToString(sum[:]) + ":"))
	o := &Object{root: file{text: text}, CA: "fixed:sha256:" + Base32(sum[:])}
	o.Path = storePath("output:out", hex.EncodeToString(inner[:]), name)
	return o, o.measure()
}

func withReferences(kind string, references []string) string {
	return strings.Join(append([]string{kind}, references...), ":")
}

// storePath computes a path from what it is made of: its kind, the hash of that, and its name.
func storePath(kind, inner, name string) string {
	sum := sha256.Sum256([]byte(kind + ":sha256:" + inner + ":" + StoreDir + ":" + name))
	const size = 20
	var digest [size]byte
	for i, b := range sum {
		digest[i%size] ^= b
	}
	return StoreDir + "/" + Base32(digest[:]) + "-" + name
}

// Base32 writes bytes as Nix does: the last bits first.
func Base32(p []byte) string {
	const digits = "0123456789abcdfghijklmnpqrsvwxyz"
	out := make([]byte, (len(p)*8+4)/5)
	for i := range out {
		bit := (len(out) - 1 - i) * 5
		at, shift := bit/8, bit%8
		v := uint(p[at]) >> shift
		if at+1 < len(p) {
			v |= uint(p[at+1]) << (8 - shift)
		}
		out[i] = digits[v%32]
	}
	return string(out)
}
