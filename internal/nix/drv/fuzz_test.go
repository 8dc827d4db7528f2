package drv_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
)

// What parses prints as it was, has a path, and its hash needs nothing but its inputs.
func FuzzParse(f *testing.F) {
	for base, text := range nix28(f) {
		if strings.HasSuffix(base, drv.Extension) {
			f.Add([]byte(text))
		}
	}
	f.Add([]byte(`Derive([("out","","","")],[],[],"x","y",["a\"\\\n\r\tb",""],[("",""),("out","")])`))
	f.Add([]byte(`DrvWithVersion("xp-dyn-drv",[],[],[],"x","y",[],[])`))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := drv.Parse(nix.DefaultStoreDir, "name", text)
		if err != nil {
			return
		}
		again, err := d.ATerm(nix.DefaultStoreDir)
		if err != nil || !bytes.Equal(again, text) {
			t.Errorf("ATerm(Parse(%q)) = %q, %v", text, again, err)
		}
		if _, err := d.File(nix.DefaultStoreDir); err != nil {
			t.Errorf("File() of %q = %v", text, err)
		}
		_, kindErr := d.Kind()
		inputs := func(nix.StorePath) (drv.Modulo, error) { return drv.Modulo{Hash: nix.NewSHA256([32]byte{})}, nil }
		own, err := d.OwnModulo(nix.DefaultStoreDir, inputs)
		if (err == nil) != (kindErr == nil) || err == nil && own.Hash.IsZero() {
			t.Errorf("OwnModulo() of %q = %v, %v; Kind() = %v", text, own, err, kindErr)
		}
	})
}
