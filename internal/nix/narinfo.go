package nix

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// NarInfo is a path info together with where a binary cache has the NAR. As text, each on a line of its own:
//
//	StorePath: /nix/store/879df4q24461rilk7847r3j220msbzl1-app    full path
//	URL: nar/1g5bmm3h8svvf2l4w5b4hbw9qbw7hmi1pyq07ihg9bdj60msv7yh.nar.xz
//	Compression: xz                                               missing or empty: bzip2
//	FileHash: sha256:…                                            of the compressed NAR; may be missing
//	FileSize: 4242                                                may be missing
//	NarHash: sha256:1g5bmm3h8svvf2l4w5b4hbw9qbw7hmi1pyq07ihg9bdj60msv7yh
//	NarSize: 320                                                  above 0
//	References: <base name> <base name> …                         may be empty
//	Deriver: <base name>                                          may be missing or unknown-deriver
//	Sig: cache.example-1:…                                        any number of lines
//	CA: fixed:r:sha256:…                                          may be missing
//
// RegistrationTime and Ultimate have no line.
type NarInfo struct {
	PathInfo

	URL         string // relative to the cache
	Compression string // "" is written as "none"; where the line is missing, parsing gives "bzip2"
	FileHash    Hash   // zero: not known
	FileSize    uint64 // 0: not known
}

// ParseNarInfo parses a narinfo of a store in dir. Unknown keys are ignored. A key that comes twice is an error, apart
// from Sig; Nix lets the last one win, apart from References and CA.
func ParseNarInfo(dir StoreDir, text string) (*NarInfo, error) {
	n := &NarInfo{Compression: "bzip2"}
	seen := map[string]bool{}
	for number := 1; text != ""; number++ {
		line, rest, ok := strings.Cut(text, "\n")
		if !ok {
			return nil, fmt.Errorf("parse narinfo: line %d: no line break at its end", number)
		}
		text = rest
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("parse narinfo: line %d: no colon", number)
		}
		if seen[key] && key != "Sig" {
			return nil, fmt.Errorf("parse narinfo: line %d: extra %s", number, key)
		}
		seen[key] = true
		if err := n.set(dir, key, strings.TrimPrefix(value, " ")); err != nil {
			return nil, fmt.Errorf("parse narinfo: line %d: %w", number, err)
		}
	}
	switch {
	case n.Path.IsZero():
		return nil, errors.New("parse narinfo: StorePath missing")
	case n.NarHash.IsZero():
		return nil, errors.New("parse narinfo: NarHash missing")
	case n.URL == "":
		return nil, errors.New("parse narinfo: URL missing")
	case n.NarSize == 0:
		return nil, errors.New("parse narinfo: NarSize missing or zero")
	}
	n.References = SortPaths(n.References)
	n.Signatures = sortSignatures(n.Signatures)
	return n, nil
}

// set takes the value of one line.
func (n *NarInfo) set(dir StoreDir, key, value string) (err error) {
	switch key {
	case "StorePath":
		n.Path, err = ParseStorePath(dir, value)
	case "URL":
		n.URL = value
	case "Compression":
		if value != "" {
			n.Compression = value
		}
	case "FileHash":
		n.FileHash, err = ParseHash(value, 0)
	case "FileSize":
		n.FileSize, err = strconv.ParseUint(value, 10, 64)
	case "NarHash":
		n.NarHash, err = parseNarHash(value)
	case "NarSize":
		n.NarSize, err = strconv.ParseUint(value, 10, 64)
	case "References":
		for s := range strings.FieldsSeq(value) {
			ref, err := ParseBaseName(s)
			if err != nil {
				return err
			}
			n.References = append(n.References, ref)
		}
	case "Deriver":
		if value != "unknown-deriver" {
			n.Deriver, err = ParseBaseName(value)
		}
	case "Sig":
		var sig Signature
		sig, err = ParseSignature(value)
		n.Signatures = append(n.Signatures, sig)
	case "CA":
		n.CA, err = ParseContentAddress(value)
	}
	return err
}

// Text returns the narinfo as Nix writes it.
func (n *NarInfo) Text(dir StoreDir) string {
	var b strings.Builder
	line := func(key, value string) { b.WriteString(key + ": " + value + "\n") }
	line("StorePath", dir.Path(n.Path))
	line("URL", n.URL)
	if n.Compression == "" {
		line("Compression", "none")
	} else {
		line("Compression", n.Compression)
	}
	if !n.FileHash.IsZero() {
		line("FileHash", n.FileHash.String())
	}
	if n.FileSize != 0 {
		line("FileSize", strconv.FormatUint(n.FileSize, 10))
	}
	line("NarHash", n.NarHash.String())
	line("NarSize", strconv.FormatUint(n.NarSize, 10))
	refs := make([]string, len(n.References))
	for i, ref := range n.References {
		refs[i] = ref.BaseName()
	}
	line("References", strings.Join(refs, " "))
	if !n.Deriver.IsZero() {
		line("Deriver", n.Deriver.BaseName())
	}
	for _, sig := range n.Signatures {
		line("Sig", sig.String())
	}
	if !n.CA.IsZero() {
		line("CA", n.CA.String())
	}
	return b.String()
}

// JSON returns the object of a path in a binary cache, as PathInfo.JSON does.
func (n *NarInfo) JSON(dir StoreDir, format JSONFormat) map[string]any {
	obj := n.PathInfo.JSON(dir, format)
	if n.URL != "" {
		obj["url"] = n.URL
	}
	if n.Compression != "" && format != JSON28 {
		obj["compression"] = n.Compression
	}
	if !n.FileHash.IsZero() {
		obj["downloadHash"] = n.FileHash.SRI()
	}
	if n.FileSize != 0 {
		obj["downloadSize"] = n.FileSize
	}
	return obj
}
