package cas_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/narfs/narfs/nar/cas"
)

// A damaged store is whole again once its NARs were imported with Mend.
func TestMend(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, small())
	a := makeNAR(t, 3, 60)
	put(t, s, a)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	packs, err := filepath.Glob(filepath.Join(dir, "packs", "*"))
	if err != nil || len(packs) == 0 {
		t.Fatalf("no packs: %v", err)
	}
	for _, name := range packs {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for at := 10_000; at < len(b)-5000; at += 15_000 {
			b[at] ^= 1
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, dir, small())
	for _, mend := range []bool{false, true} {
		st, err := s.Ingest(t.Context(), bytes.NewReader(a.nar), cas.IngestOptions{Mend: mend})
		if err != nil {
			t.Fatal(err)
		}
		var b cas.Batch
		b.PutObject(st)
		if err := s.Commit(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		o, err := s.Object(a.hash)
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		err = o.WriteNAR(t.Context(), &got)
		if ok := err == nil && bytes.Equal(got.Bytes(), a.nar); ok != mend {
			t.Errorf("after an import with Mend %v the NAR is whole: %v (%v)", mend, ok, err)
		}
	}
}
