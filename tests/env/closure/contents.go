package closure

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

func seed(salt string, i int) [32]byte { return sha256.Sum256(fmt.Appendf(nil, "%s %d", salt, i)) }

func sorted(set map[string]bool) []string { return slices.Sorted(maps.Keys(set)) }

// withSelf returns the references of an object and itself.
func withSelf(o *Object) []string {
	return slices.Sorted(slices.Values(append(slices.Clone(o.References), o.Path)))
}

// clean makes a name one of a store path.
func clean(name string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("+-._?=", r) || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, strings.TrimLeft(name, "."))
}

// prose returns about so many bytes of text, which compress as text does.
func prose(rng *rand.Rand, size int) string {
	var b strings.Builder
	for b.Len() < size {
		word := rng.Uint32N(1 << (2 + rng.UintN(14)))
		for word > 0 {
			b.WriteString([]string{"ba", "te", "ri", "on", "ul", "sta", "ke", "ng"}[word%8])
			word /= 8
		}
		b.WriteByte(" \n"[rng.UintN(12)/11])
	}
	return b.String()
}

// smallTree returns a folder of a few files, links and folders that name all references.
func smallTree(rng *rand.Rand, references []string) folder {
	names := map[string]node{}
	for i, r := range references {
		if i%3 == 0 {
			names[fmt.Sprintf("link-%d", i)] = link(r + "/share")
		}
	}
	names["nix-support"] = folder{{"propagated-build-inputs", file{text: strings.Join(references, " ")}}}
	for i := range 1 + rng.IntN(6) {
		names[fmt.Sprintf("file-%d", i)] = file{rng.IntN(5) == 0, prose(rng, int(rng.ExpFloat64()*2500))}
	}
	data := make([]byte, rng.IntN(3000))
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	names["share"] = folder{{"data", file{text: string(data)}}, {"doc", folder{{"README", file{text: prose(rng, 500)}}}}}
	var d folder
	for _, name := range slices.Sorted(maps.Keys(names)) {
		d = append(d, entry{name, names[name]})
	}
	return d
}
