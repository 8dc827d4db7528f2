package nix_test

import (
	"encoding/json"
	"testing"

	"github.com/narfs/narfs/internal/nix"
)

// What parses, prints and parses to the same again.

func FuzzParseHash(f *testing.F) {
	for _, h := range helloHashes {
		f.Add(h.base16, uint8(h.algo))
		f.Add(h.algo.String()+":"+h.nix32, uint8(0))
		f.Add(h.algo.String()+"-"+h.b64, uint8(h.algo))
	}
	f.Add("md5:zzzzzzzzzzzzzzzzzzzzzzzzzz", uint8(0))
	f.Fuzz(func(t *testing.T, s string, algo uint8) {
		h, err := nix.ParseHash(s, nix.Algo(algo))
		if err != nil {
			if !h.IsZero() {
				t.Errorf("ParseHash(%q) = %v and %v", s, h, err)
			}
			return
		}
		for _, text := range []string{h.String(), h.SRI(), h.Algo().String() + ":" + h.Base16(), h.Algo().String() + ":" + h.Base64()} {
			if again, err := nix.ParseHash(text, 0); again != h || err != nil {
				t.Errorf("ParseHash(%q) = %v, %v; want %v", text, again, err, h)
			}
		}
	})
}

func FuzzDecodeNix32(f *testing.F) {
	f.Add("")
	f.Add("7z")
	f.Add("00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq")
	f.Add("80")
	f.Fuzz(func(t *testing.T, s string) {
		if b, err := nix.DecodeNix32(s); err == nil && nix.EncodeNix32(b) != s {
			t.Errorf("EncodeNix32(DecodeNix32(%q)) = %q", s, nix.EncodeNix32(b))
		}
	})
}

func FuzzParseStorePath(f *testing.F) {
	f.Add("/nix/store/" + hashPart + "-foo")
	f.Add("/nix/store/" + hashPart + "-..-foo/../bin")
	f.Add("/nix/store//" + hashPart + "-foo?")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := nix.ParseStorePath(nix.DefaultStoreDir, s)
		q, rest, err2 := nix.SplitStorePath(nix.DefaultStoreDir, s)
		if err == nil && (nix.DefaultStoreDir.Path(p) != s || err2 != nil || p != q || rest != "") {
			t.Errorf("ParseStorePath(%q) = %v, SplitStorePath() = %v, %q, %v", s, p, q, rest, err2)
		}
		if err == nil && (nix.CheckName(p.Name()) != nil || len(p.BaseName()) > 244) {
			t.Errorf("ParseStorePath(%q) = %v, with a bad name", s, p)
		}
	})
}

func FuzzParseContentAddress(f *testing.F) {
	f.Add("")
	f.Add("text:sha256:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq")
	f.Add("fixed:r:sha1:iwjz551fyw0cxcjgf4l6c879zabd6wpm")
	f.Add("fixed:git:sha1:f572d396fae9206628714fb2ce00f72e94f2258f")
	f.Fuzz(func(t *testing.T, s string) {
		ca, err := nix.ParseContentAddress(s)
		if err != nil {
			return
		}
		if again, err := nix.ParseContentAddress(ca.String()); again != ca || err != nil {
			t.Errorf("ParseContentAddress(%q) = %v, then %v, %v", s, ca, again, err)
		}
	})
}

func FuzzParseSignature(f *testing.F) {
	f.Add(nix.Signature{KeyName: "cache.example-1"}.String())
	f.Add("a:b")
	f.Fuzz(func(t *testing.T, s string) {
		if sig, err := nix.ParseSignature(s); err == nil {
			if again, err := nix.ParseSignature(sig.String()); again != sig || err != nil {
				t.Errorf("ParseSignature(%q) = %v, then %v, %v", s, sig, again, err)
			}
		}
	})
}

func FuzzParseNarInfo(f *testing.F) {
	for name, text := range nix28(f) {
		if len(name) > 8 && name[len(name)-8:] == ".narinfo" {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := nix.ParseNarInfo(nix.DefaultStoreDir, s)
		if err != nil {
			return
		}
		again, err := nix.ParseNarInfo(nix.DefaultStoreDir, n.Text(nix.DefaultStoreDir))
		if err != nil {
			t.Fatalf("ParseNarInfo(%q) is written as %q, which does not parse: %v", s, n.Text(nix.DefaultStoreDir), err)
		}
		if diff := diffValues(n, again); diff != "" {
			t.Errorf("ParseNarInfo(%q), written and parsed again: -want +got:\n%s", s, diff)
		}
	})
}

func FuzzParseJSONDocument(f *testing.F) {
	infos := pathInfos28(f)
	for format := nix.JSON28; format <= nix.JSON3; format++ {
		objects := map[nix.StorePath]map[string]any{mustPath(f, hashPart+"-foo"): nil}
		for i := range infos {
			objects[infos[i].Path] = infos[i].JSON(nix.DefaultStoreDir, format)
		}
		text, err := json.Marshal(nix.JSONDocument(nix.DefaultStoreDir, format, objects))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		infos, err := nix.ParseJSONDocument(nix.DefaultStoreDir, data)
		if err != nil {
			return
		}
		for _, p := range infos {
			text, err := json.Marshal([]any{p.JSON(nix.DefaultStoreDir, nix.JSON28)})
			if err != nil {
				t.Fatal(err)
			}
			again, err := nix.ParseJSONDocument(nix.DefaultStoreDir, text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := diffValues([]nix.PathInfo{p}, again); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		}
	})
}
