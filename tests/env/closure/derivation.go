package closure

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// Derivation is a derivation as nix-instantiate adds it.
type Derivation struct {
	Path, Name, Text string
	References       []string
}

// Derivations returns n derivations, each of which needs the one before. They are of the kind whose contents are known.
func Derivations(n int) []Derivation {
	all := make([]Derivation, 0, n)
	for i := range n {
		name := fmt.Sprintf("known-%d", i)
		sum := fmt.Sprintf("%064x", i)
		inner := sha256.Sum256([]byte("fixed:out:sha256:" + sum + ":"))
		out := storePath("output:out", hex.EncodeToString(inner[:]), name)
		d := Derivation{Name: name + ".drv"}
		inputs := ""
		if i > 0 {
			d.References = []string{all[i-1].Path}
			inputs = fmt.Sprintf("(%q,[%q])", all[i-1].Path, "out")
		}
		d.Text = fmt.Sprintf(`Derive([("out",%q,"sha256",%q)],[%s],[],"x","/b",[],[("builder","/b"),("name",%q),("out",%[1]q),("outputHash",%[2]q),("outputHashAlgo","sha256"),("system","x")])`,
			out, sum, inputs, name)
		text := sha256.Sum256([]byte(d.Text))
		d.Path = storePath(withReferences("text", d.References), hex.EncodeToString(text[:]), d.Name)
		all = append(all, d)
	}
	return all
}
