package nix_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/narfs/narfs/internal/nix"
)

// A realisation that Nix 2.8 signed with a key made for this test, as nix copy wrote it into a binary cache.
const (
	realisationText = `{"dependentRealisations":{},` +
		`"id":"sha256:74c4fc93a493504494e26338e0f8ef71e34aa92dbade0ace70258b37b08d7715!out",` +
		`"outPath":"xxp9giyjynlzssqqqvlv3j4www5z9nwd-deferred",` +
		`"signatures":["test-1:jruwv6uC+zt2kLJnJjB3whcBRnqs91F0VXbWrp53hYqOlsQCgnPd5PJRl7RiPzZFWOHSD4m2fVbs+SPDKRd4AQ=="]}`
	realisationKey = "test-1:h3ZYsmGphj14mVIy5WTkRsByWynEVJRGPM/d38YOCa4CC5XQp8w0fmpaavh2Zr4a1sKNn9yVZUi6I6gVDiLE/w=="
)

func TestRealisationSignature(t *testing.T) {
	r, err := nix.ParseRealisation([]byte(realisationText))
	if err != nil {
		t.Fatal(err)
	}
	key, err := nix.ParseSecretKey(realisationKey)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := nix.GenerateSecretKey("test-1")
	if err != nil {
		t.Fatal(err)
	}
	keys := []nix.PublicKey{key.Public(), stranger.Public()}
	if got := r.Verify(keys); got != 1 {
		t.Errorf("Verify() = %d; want 1", got)
	}
	unsigned := r
	unsigned.Signatures = nil
	for range 2 {
		if err := unsigned.Sign(key); err != nil {
			t.Fatal(err)
		}
		if text, err := unsigned.JSON(); err != nil || string(text) != realisationText {
			t.Errorf("JSON() = %s, %v; want %s", text, err, realisationText)
		}
	}
	if err := unsigned.Sign(stranger); err != nil || unsigned.Verify(keys) != 2 || r.Verify(keys) != 1 {
		t.Errorf("Sign() = %v, and Verify() = %d, before %d", err, unsigned.Verify(keys), r.Verify(keys))
	}
	unsigned.OutPath = mustPath(t, hashPart+"-foo")
	if got := unsigned.Verify(keys); got != 0 {
		t.Errorf("Verify() of another path = %d; want 0", got)
	}
	unsigned = r
	unsigned.Dependencies = map[nix.DrvOutput]nix.StorePath{r.ID: r.OutPath}
	if got := unsigned.Verify(keys); got != 0 {
		t.Errorf("Verify() with a dependency = %d; want 0", got)
	}
}

func TestParseRealisationErrors(t *testing.T) {
	for _, tt := range []struct{ from, to, want string }{
		{realisationText, "", "unexpected end"},
		{realisationText, "[]", "cannot unmarshal"},
		{realisationText, strings.Repeat(" ", 4<<20) + realisationText, "more than"},
		{`"id"`, `"ID"`, "missing field id"},
		{`"outPath"`, `"outpath"`, "missing field outPath"},
		{"sha256:", "sha256", "parse hash"},
		{"sha256:", "sha512:", "parse hash"},
		{"sha256:74c4", "74c4", "does not include a type"},
		{"!out", "", "no '!'"},
		{"!out", "!", "name must not be empty"},
		{"!out", "!a!b", "illegal character"},
		{"xxp9", "/nix/store/xxp9", "outPath"},
		{`["test-1:`, `["`, "signature"},
		{`["test-1:`, `[7,"test-1:`, "signature"},
		{`{"dependentRealisations":{}`, `{"dependentRealisations":{"x":"y"}`, "dependentRealisations"},
		{`{"dependentRealisations":{}`, `{"dependentRealisations":[]`, "dependentRealisations"},
		{
			`{"dependentRealisations":{}`,
			`{"dependentRealisations":{"sha256:` + strings.Repeat("0", 64) + `!out":"` + hashPart + `-a","sha256:` + strings.Repeat("0", 52) + `!out":"` + hashPart + `-a"}`,
			"twice",
		},
	} {
		text := strings.Replace(realisationText, tt.from, tt.to, 1)
		if r, err := nix.ParseRealisation([]byte(text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("ParseRealisation(%s) = %+v, %v; want an error with %q", text, r, err, tt.want)
		}
	}
}

// The strings of Nix's golden bytes; what is written again has signatures as strings, which every version reads.
func TestNixVectorsRealisations(t *testing.T) {
	var ids []string
	if err := json.Unmarshal([]byte(vector(t, "common-protocol", "drv-output.json")), &ids); err != nil {
		t.Fatal(err)
	}
	for _, s := range ids {
		if id, err := nix.ParseDrvOutput(s); err != nil || id.String() != s {
			t.Errorf("ParseDrvOutput(%q) = %v, %v", s, id, err)
		}
	}
	for _, name := range []string{"realisation", "realisation-with-deps"} {
		bin := vector(t, "common-protocol", name+".bin")
		var list []json.RawMessage
		if err := json.Unmarshal([]byte(vector(t, "common-protocol", name+".json")), &list); err != nil {
			t.Fatal(err)
		}
		for _, raw := range list {
			r, err := nix.ParseRealisation(raw)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			text, err := r.JSON()
			if err != nil {
				t.Fatal(err)
			}
			if objects := bytes.Contains(raw, []byte(`"keyName"`)); !objects && !strings.Contains(bin, string(text)) {
				t.Errorf("%s: JSON() = %s; want a part of %q", name, text, bin)
			}
			again, err := nix.ParseRealisation(text)
			if err != nil || again.ID != r.ID || again.OutPath != r.OutPath || !slices.Equal(again.Signatures, r.Signatures) ||
				!maps.Equal(again.Dependencies, r.Dependencies) {
				t.Errorf("%s: ParseRealisation(JSON()) = %+v, %v; want %+v", name, again, err, r)
			}
		}
	}
}

func FuzzParseRealisation(f *testing.F) {
	f.Add([]byte(realisationText))
	f.Add([]byte(`{"dependentRealisations":{"sha256:6f869f9ea2823bda165e06076fd0de4366dead2c0e8d2dbbad277d4f15c373f5!quux":"g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo"},` +
		`"id":"sha256:15e3c560894cbb27085cf65b5a2ecb18488c999497f4531b6907a7581ce6d527!baz","outPath":"g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := nix.ParseRealisation(data)
		if err != nil {
			return
		}
		text, err := r.JSON()
		if err != nil {
			t.Fatal(err)
		}
		again, err := nix.ParseRealisation(text)
		if err != nil || again.ID != r.ID || again.OutPath != r.OutPath || len(again.Signatures) != len(r.Signatures) ||
			!maps.Equal(again.Dependencies, r.Dependencies) {
			t.Errorf("ParseRealisation(%s) = %+v, %v; want %+v", text, again, err, r)
		}
		if text, err := r.Fingerprint(); err != nil || strings.Contains(text, "signatures") || strings.ContainsAny(text, " \n<>&\\") {
			t.Errorf("Fingerprint() = %s, %v", text, err)
		}
	})
}
