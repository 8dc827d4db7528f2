package nix

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// DrvOutput names an output by what is built rather than by where it will be. DrvOutputs are comparable with ==. The zero value
// is none.
type DrvOutput struct {
	Hash   Hash   // of SHA-256, the derivation's hash modulo; see package drv
	Output string // the output's name; passes CheckName
}

// ParseDrvOutput parses "sha256:…!name". The hash may have any spelling that ParseHash accepts, with its algorithm.
func ParseDrvOutput(s string) (DrvOutput, error) {
	hash, output, ok := strings.Cut(s, "!")
	if !ok {
		return DrvOutput{}, fmt.Errorf("invalid derivation output id %q: no '!'", s)
	}
	h, err := ParseHash(hash, 0)
	if err == nil && h.algo != SHA256 {
		err = errors.New("its hash is not of sha256")
	}
	if err == nil {
		err = CheckName(output)
	}
	if err != nil {
		return DrvOutput{}, fmt.Errorf("invalid derivation output id %q: %w", s, err)
	}
	return DrvOutput{h, output}, nil
}

// IsZero reports whether o is none.
func (o DrvOutput) IsZero() bool { return o == DrvOutput{} }

// String returns "sha256:", the hash in base 16, "!" and the output's name; "" for none.
func (o DrvOutput) String() string {
	if o.IsZero() {
		return ""
	}
	return o.Hash.algo.String() + ":" + o.Hash.Base16() + "!" + o.Output
}

// Compare orders DrvOutputs as their strings.
func (o DrvOutput) Compare(p DrvOutput) int { return cmp.Compare(o.String(), p.String()) }

// Realisation says where an output is, as Nix 2.4 to 2.34 have it. (2.36 names outputs by the paths of derivations instead, in
// another JSON and another fingerprint; it speaks these with the others.)
type Realisation struct {
	ID      DrvOutput
	OutPath StorePath

	// The rest may be missing.

	Signatures   []Signature             // in order, each once
	Dependencies map[DrvOutput]StorePath // the realisations that it was built with
}

// maxRealisation is how many bytes of JSON a realisation may have, with its signatures.
const maxRealisation = 4 << 20

// realisationJSON is the order of keys in which Nix writes them.
type realisationJSON struct {
	Dependencies map[string]string `json:"dependentRealisations"`
	ID           string            `json:"id"`
	OutPath      string            `json:"outPath"`
	Signatures   []string          `json:"signatures,omitzero"`
}

func (r *Realisation) toJSON(signatures []string) ([]byte, error) {
	obj := realisationJSON{map[string]string{}, r.ID.String(), r.OutPath.BaseName(), signatures}
	for id, path := range r.Dependencies {
		obj.Dependencies[id.String()] = path.BaseName()
	}
	// Nothing but names of keys can need escapes, so that the fingerprint is the same whoever writes it.
	text, err := json.Marshal(obj)
	if len(text) > maxRealisation {
		return nil, fmt.Errorf("realisation of %s: more than %d bytes", r.ID, maxRealisation)
	}
	return text, err
}

// JSON returns the realisation as it stands in protocols, stores and caches:
//
//	{"dependentRealisations":{ID:BASENAME,…},"id":ID,"outPath":BASENAME,"signatures":[SIGNATURE,…]}
func (r *Realisation) JSON() ([]byte, error) {
	signatures := []string{}
	for _, s := range r.Signatures {
		signatures = append(signatures, s.String())
	}
	return r.toJSON(signatures)
}

// ParseRealisation parses what JSON writes. Signatures may also be objects, as in 2.34. Signatures and dependencies may be missing,
// and other keys are ignored.
func ParseRealisation(data []byte) (Realisation, error) {
	r, err := parseRealisation(data)
	if err != nil {
		return Realisation{}, fmt.Errorf("parse realisation: %w", err)
	}
	return r, nil
}

func parseRealisation(data []byte) (r Realisation, err error) {
	if len(data) > maxRealisation {
		return r, fmt.Errorf("more than %d bytes", maxRealisation)
	}
	var fields map[string]json.RawMessage // unlike a struct, tells "outPath" from "outpath"
	if err := json.Unmarshal(data, &fields); err != nil {
		return r, err
	}
	var id, outPath string
	var signatures []json.RawMessage
	var dependencies map[string]string
	for _, field := range []struct {
		key      string
		to       any
		optional bool
	}{{"id", &id, false}, {"outPath", &outPath, false}, {"signatures", &signatures, true}, {"dependentRealisations", &dependencies, true}} {
		raw, ok := fields[field.key]
		if !ok && field.optional {
			continue
		}
		if !ok {
			return r, fmt.Errorf("missing field %s", field.key)
		}
		if err := json.Unmarshal(raw, field.to); err != nil {
			return r, fmt.Errorf("%s: %w", field.key, err)
		}
	}

	if r.ID, err = ParseDrvOutput(id); err != nil {
		return r, err
	}
	if r.OutPath, err = ParseBaseName(outPath); err != nil {
		return r, fmt.Errorf("outPath: %w", err)
	}
	for _, raw := range signatures {
		sig, err := parseSignatureJSON(raw)
		if err != nil {
			return r, err
		}
		r.Signatures = append(r.Signatures, sig)
	}
	r.Signatures = sortSignatures(r.Signatures)
	for _, key := range slices.Sorted(maps.Keys(dependencies)) {
		id, err := ParseDrvOutput(key)
		if err != nil {
			return r, fmt.Errorf("dependentRealisations: %w", err)
		}
		path, err := ParseBaseName(dependencies[key])
		if err != nil {
			return r, fmt.Errorf("dependentRealisations: %w", err)
		}
		if _, ok := r.Dependencies[id]; ok {
			return r, fmt.Errorf("dependentRealisations: %s twice", id)
		}
		if r.Dependencies == nil {
			r.Dependencies = map[DrvOutput]StorePath{}
		}
		r.Dependencies[id] = path
	}
	return r, nil
}

// Fingerprint returns the text that signatures of the realisation are over: its JSON without signatures. Unlike that of a path info,
// it does not depend on the store directory.
func (r *Realisation) Fingerprint() (string, error) {
	text, err := r.toJSON(nil)
	if err != nil {
		return "", fmt.Errorf("fingerprint of %s: %w", r.ID, err)
	}
	return string(text), nil
}

// Sign adds the key's signature. The fingerprint must not change afterwards.
func (r *Realisation) Sign(key SecretKey) error {
	text, err := r.Fingerprint()
	if err != nil {
		return fmt.Errorf("sign with %s: %w", key.Name(), err)
	}
	r.Signatures = sortSignatures(append(slices.Clone(r.Signatures), key.Sign(text)))
	return nil
}

// Verify returns how many of the keys signed the realisation.
func (r *Realisation) Verify(keys []PublicKey) int {
	text, err := r.Fingerprint()
	if err != nil {
		return 0
	}
	return countSigned(text, r.Signatures, keys)
}

// AddSignatures adds those of sigs that are not there yet.
func (r *Realisation) AddSignatures(sigs ...Signature) {
	r.Signatures = sortSignatures(slices.Concat(r.Signatures, sigs))
}
