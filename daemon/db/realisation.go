package db

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/narfs/narfs/internal/nix"
)

// Realisation says which valid path an output of a derivation is.
type Realisation struct {
	ID   string        // the derivation's hash modulo and the output's name, as Nix prints it
	Path nix.StorePath // valid
	JSON []byte        // all of it, with signatures
}

func realisedKey(id string) []byte { return append([]byte{kindRealised}, id...) }

func realPathKey(r Realisation) []byte { return append(pairKey(kindRealPath, r.Path), r.ID...) }

// PutRealisation writes a realisation, or writes it anew with the same path.
func PutRealisation(w Writer, r Realisation) {
	b := appendString([]byte{recordVersion}, r.Path.BaseName())
	b = appendString(b, string(r.JSON))
	w.Put(realPathKey(r), []byte{})
	w.Put(realisedKey(r.ID), seal(realisedKey(r.ID), b))
}

// DeleteRealisation takes a realisation away.
func DeleteRealisation(w Writer, r Realisation) {
	w.Delete(realisedKey(r.ID))
	w.Delete(realPathKey(r))
}

func parseRealisation(key, value []byte) (Realisation, error) {
	payload, err := unseal(key, value)
	if err != nil {
		return Realisation{}, err
	}
	p := &parser{b: payload}
	r := Realisation{ID: string(key[1:]), Path: p.path(), JSON: []byte(p.string())}
	if r.Path.IsZero() || len(p.b) > 0 {
		p.fail(errors.New("no realisation"))
	}
	return r, p.err
}

// Realisation returns the realisation with an ID, else ErrNotFound.
func (d *DB) Realisation(id string) (Realisation, error) {
	v, err := d.get(realisedKey(id))
	if err != nil {
		return Realisation{}, fmt.Errorf("realisation %s: %w", id, err)
	}
	r, err := parseRealisation(realisedKey(id), v)
	if err != nil {
		return r, fmt.Errorf("realisation %s: %w", id, err)
	}
	return r, nil
}

// RealisationsOf returns the realisations, without their JSON, of each of some paths. They go with these.
func (d *DB) RealisationsOf(paths []nix.StorePath) (found []Realisation, err error) {
	prefixes := make([][]byte, len(paths))
	for i, path := range paths {
		prefixes[i] = pairKey(kindRealPath, path)
	}
	add := func(i int, key []byte) {
		found = append(found, Realisation{ID: string(key[len(prefixes[i]):]), Path: paths[i]})
	}
	if many, ok := d.kv.(manyScanner); ok {
		err = many.ScanMany(prefixes, func(i int, key []byte) error { add(i, key); return nil })
		return found, err
	}
	for i, prefix := range prefixes {
		err := d.kv.Scan(prefix, func(key, _ []byte) error { add(i, key); return nil })
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// Realisations calls fn with all realisations, in the order of their IDs and from one snapshot, until it returns an error. One that
// cannot be read comes with that error.
func (d *DB) Realisations(fn func(Realisation, error) error) error {
	return d.kv.Scan([]byte{kindRealised}, func(key, value []byte) error {
		return fn(parseRealisation(bytes.Clone(key), bytes.Clone(value)))
	})
}
