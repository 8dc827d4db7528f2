package nix

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// JSONFormat is one of the shapes in which Nix prints path infos as JSON.
type JSONFormat uint8

// The formats, as `nix path-info --json` of these versions prints them.
const (
	JSON28 JSONFormat = iota // 2.8: a list of objects, which hold their path and nothing that is missing
	JSON1                    // 2.34 and later with --json-format 1: objects by path, missing things are null
	JSON2                    // --json-format 2: base names instead of full paths, structured content addresses, and an envelope
	JSON3                    // --json-format 3: the same with structured signatures
)

// JSON returns the object of a path for json.Marshal, to which the caller may add (Nix adds "closureSize").
func (p *PathInfo) JSON(dir StoreDir, format JSONFormat) map[string]any {
	spell := dir.Path
	if format >= JSON2 {
		spell = StorePath.BaseName
	}
	refs := make([]string, len(p.References))
	for i, ref := range p.References {
		refs[i] = spell(ref)
	}
	obj := map[string]any{
		"narHash":          p.NarHash.SRI(),
		"narSize":          p.NarSize,
		"references":       refs,
		"ca":               nil,
		"deriver":          nil,
		"registrationTime": nil,
		"ultimate":         p.Ultimate,
		"signatures":       signaturesJSON(p.Signatures, format),
		"storeDir":         string(dir),
		"version":          int(format),
	}
	if !p.CA.IsZero() {
		obj["ca"] = p.CA.String()
		if format >= JSON2 {
			obj["ca"] = map[string]string{"method": p.CA.Method.String(), "hash": p.CA.Hash.SRI()}
		}
	}
	if !p.Deriver.IsZero() {
		obj["deriver"] = spell(p.Deriver)
	}
	if p.RegistrationTime != 0 {
		obj["registrationTime"] = p.RegistrationTime
	}
	if format == JSON28 {
		delete(obj, "storeDir")
		delete(obj, "version")
		if !p.Ultimate {
			delete(obj, "ultimate")
		}
		if len(p.Signatures) == 0 {
			delete(obj, "signatures")
		}
		maps.DeleteFunc(obj, func(_ string, v any) bool { return v == nil })
		obj["path"] = dir.Path(p.Path)
	}
	return obj
}

func signaturesJSON(sigs []Signature, format JSONFormat) []any {
	list := make([]any, len(sigs))
	for i, s := range sigs {
		list[i] = s.String()
		if format == JSON3 {
			list[i] = map[string]string{"keyName": s.KeyName, "sig": s.base64()}
		}
	}
	return list
}

// JSONDocument returns what `nix path-info --json` prints about several paths, for json.Marshal. The objects come from
// JSON of the same format; nil stands for a path that is not valid.
func JSONDocument(dir StoreDir, format JSONFormat, objects map[StorePath]map[string]any) any {
	if format == JSON28 {
		list := make([]map[string]any, 0, len(objects))
		for _, path := range slices.SortedFunc(maps.Keys(objects), StorePath.Compare) {
			obj := objects[path]
			if obj == nil {
				obj = map[string]any{"path": dir.Path(path), "valid": false}
			}
			list = append(list, obj)
		}
		return list
	}
	byPath := make(map[string]map[string]any, len(objects))
	for path, obj := range objects {
		if format == JSON1 {
			byPath[dir.Path(path)] = obj
		} else {
			byPath[path.BaseName()] = obj
		}
	}
	if format == JSON1 {
		return byPath
	}
	return map[string]any{"version": int(format), "storeDir": string(dir), "info": byPath}
}

// pathInfoJSON takes every format's object.
type pathInfoJSON struct {
	Version          int
	StoreDir         *string
	Path             string
	Valid            *bool
	NarHash          string
	NarSize          uint64
	References       []string
	CA               json.RawMessage
	Deriver          string
	RegistrationTime int64
	Ultimate         bool
	Signatures       []json.RawMessage
}

// ParseJSONDocument parses what `nix path-info --json` prints, in any of the formats. Paths that it calls not valid are left out. A document of another
// store directory or of an unknown version is an error.
func ParseJSONDocument(dir StoreDir, data []byte) ([]PathInfo, error) {
	infos, err := parseJSONDocument(dir, data)
	if err != nil {
		return nil, fmt.Errorf("parse JSON of path infos: %w", err)
	}
	return infos, nil
}

func parseJSONDocument(dir StoreDir, data []byte) ([]PathInfo, error) {
	var objects []pathInfoJSON
	if trimmed := bytes.TrimSpace(data); len(trimmed) > 0 && trimmed[0] == '[' {
		if err := json.Unmarshal(data, &objects); err != nil {
			return nil, err
		}
	} else {
		var envelope struct {
			Version int
			Info    map[string]*pathInfoJSON
		}
		if err := json.Unmarshal(data, &envelope); err != nil {
			return nil, err
		}
		byPath := envelope.Info
		if byPath == nil {
			if err := json.Unmarshal(data, &byPath); err != nil {
				return nil, err
			}
		}
		for _, path := range slices.Sorted(maps.Keys(byPath)) {
			if obj := byPath[path]; obj != nil {
				obj.Path = path
				obj.Version = cmp.Or(obj.Version, envelope.Version)
				objects = append(objects, *obj)
			}
		}
	}
	var infos []PathInfo
	for _, obj := range objects {
		if obj.Valid != nil && !*obj.Valid {
			continue
		}
		info, err := obj.pathInfo(dir)
		if err != nil {
			return nil, fmt.Errorf("path %q: %w", obj.Path, err)
		}
		infos = append(infos, info)
	}
	return infos, nil
}

func (obj *pathInfoJSON) pathInfo(dir StoreDir) (PathInfo, error) {
	if obj.Version < 0 || obj.Version > int(JSON3) {
		return PathInfo{}, fmt.Errorf("unsupported version %d", obj.Version)
	}
	if obj.StoreDir != nil && *obj.StoreDir != string(dir) {
		return PathInfo{}, fmt.Errorf("store directory %q instead of %q", *obj.StoreDir, dir)
	}
	if obj.References == nil { // never null or left out: an info that lost its references must not pass for one without
		return PathInfo{}, errors.New("no references")
	}
	parse := func(s string) (StorePath, error) { return ParseStorePath(dir, s) }
	if obj.Version >= int(JSON2) {
		parse = ParseBaseName
	}

	p := PathInfo{NarSize: obj.NarSize, RegistrationTime: obj.RegistrationTime, Ultimate: obj.Ultimate}
	var err error
	if p.Path, err = parse(obj.Path); err != nil {
		return PathInfo{}, err
	}
	if p.NarHash, err = parseNarHash(obj.NarHash); err != nil {
		return PathInfo{}, err
	}
	for _, s := range obj.References {
		ref, err := parse(s)
		if err != nil {
			return PathInfo{}, fmt.Errorf("reference: %w", err)
		}
		p.References = append(p.References, ref)
	}
	p.References = SortPaths(p.References)
	if obj.Deriver != "" {
		if p.Deriver, err = parse(obj.Deriver); err != nil {
			return PathInfo{}, fmt.Errorf("deriver: %w", err)
		}
	}
	if p.CA, err = parseContentAddressJSON(obj.CA); err != nil {
		return PathInfo{}, err
	}
	for _, raw := range obj.Signatures {
		sig, err := parseSignatureJSON(raw)
		if err != nil {
			return PathInfo{}, err
		}
		p.Signatures = append(p.Signatures, sig)
	}
	p.Signatures = sortSignatures(p.Signatures)
	return p, nil
}

// parseNarHash parses the hash of a NAR, which is always of SHA-256.
func parseNarHash(s string) (Hash, error) {
	h, err := ParseHash(s, SHA256)
	if err != nil {
		return Hash{}, fmt.Errorf("NAR hash: %w", err)
	}
	return h, nil
}

func parseContentAddressJSON(raw json.RawMessage) (ContentAddress, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return ContentAddress{}, nil
	}
	if raw[0] == '"' {
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return ContentAddress{}, err
		}
		return ParseContentAddress(s)
	}
	var obj struct{ Method, Hash string }
	if err := json.Unmarshal(raw, &obj); err != nil {
		return ContentAddress{}, fmt.Errorf("content address: %w", err)
	}
	method, err := ParseMethod(obj.Method)
	if err != nil {
		return ContentAddress{}, err
	}
	h, err := ParseHash(obj.Hash, 0)
	if err != nil {
		return ContentAddress{}, fmt.Errorf("content address: %w", err)
	}
	return ContentAddress{Method: method, Hash: h}, method.check(h.algo)
}

// parseSignatureJSON takes, as Nix does, both forms in every version.
func parseSignatureJSON(raw json.RawMessage) (Signature, error) {
	var s string
	if len(raw) > 0 && raw[0] == '{' {
		var obj struct{ KeyName, Sig string }
		if err := json.Unmarshal(raw, &obj); err != nil {
			return Signature{}, fmt.Errorf("signature: %w", err)
		}
		s = obj.KeyName + ":" + obj.Sig
	} else if err := json.Unmarshal(raw, &s); err != nil {
		return Signature{}, fmt.Errorf("signature: %w", err)
	}
	return ParseSignature(s)
}
