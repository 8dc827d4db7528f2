package nix_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/wire"
)

// nix28 returns what Nix 2.8 wrote, by file name; testdata/nix-2.8.txtar says how.
func nix28(tb testing.TB) map[string]string {
	tb.Helper()
	archive, err := txtar.ParseFile(filepath.Join("testdata", "nix-2.8.txtar"))
	if err != nil {
		tb.Fatal(err)
	}
	files := map[string]string{}
	for _, f := range archive.Files {
		files[f.Name] = string(f.Data)
	}
	return files
}

// pathInfos28 returns the path infos of Nix 2.8's JSON.
func pathInfos28(tb testing.TB) []nix.PathInfo {
	tb.Helper()
	infos, err := nix.ParseJSONDocument(nix.DefaultStoreDir, []byte(nix28(tb)["path-info.json"]))
	if err != nil {
		tb.Fatal(err)
	}
	if len(infos) != 8 {
		tb.Fatalf("ParseJSONDocument(path-info.json) = %d paths; want 8", len(infos))
	}
	return infos
}

// diffValues compares deeply, by == where a type of package nix hides its fields.
func diffValues(want, got any) string {
	return cmp.Diff(want, got, cmp.Comparer(func(a, b nix.StorePath) bool { return a == b }),
		cmp.Comparer(func(a, b nix.Hash) bool { return a == b }))
}

// diffJSON compares what two values are as JSON.
func diffJSON(tb testing.TB, want string, got any) string {
	tb.Helper()
	text, err := json.Marshal(got)
	if err != nil {
		tb.Fatal(err)
	}
	var w, g any
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		tb.Fatal(err)
	}
	if err := json.Unmarshal(text, &g); err != nil {
		tb.Fatal(err)
	}
	return cmp.Diff(w, g)
}

func TestFingerprint(t *testing.T) {
	want := "1;/nix/store/879df4q24461rilk7847r3j220msbzl1-app;sha256:1g5bmm3h8svvf2l4w5b4hbw9qbw7hmi1pyq07ihg9bdj60msv7yh;320;" +
		"/nix/store/1grkls2fz9svc2q7sin18a00qazpyf64-lib-1.0,/nix/store/879df4q24461rilk7847r3j220msbzl1-app," +
		"/nix/store/9yi90plfx6p40612x6ygm4srzrp2j02p-lib-1.0-dev,/nix/store/qp3sypqrri2xj4pn98bf5jcvwc58c4ik-note"
	found := false
	for _, p := range pathInfos28(t) {
		text, err := p.Fingerprint(nix.DefaultStoreDir)
		if err != nil {
			t.Errorf("Fingerprint(%s) = %v", p.Path, err)
		}
		if text == want {
			found = true
		}
		if len(p.References) == 0 && !strings.HasSuffix(text, ";120;") {
			t.Errorf("Fingerprint(%s) = %q; want it to end in ;120;", p.Path, text)
		}
	}
	if !found {
		t.Errorf("no Fingerprint() = %q", want)
	}
	for _, p := range []nix.PathInfo{
		{},
		{Path: mustPath(t, hashPart+"-foo"), NarSize: 7},
		{Path: mustPath(t, hashPart+"-foo"), NarHash: nix.NewSHA256([32]byte{})},
		{Path: mustPath(t, hashPart+"-foo"), NarSize: 7, NarHash: mustHash(t, "md5:b1946ac92492d2347c6235b4d2611184")},
	} {
		if text, err := p.Fingerprint(nix.DefaultStoreDir); err == nil {
			t.Errorf("Fingerprint(%+v) = %q; want an error", p, text)
		}
		if got := p.Verify(nix.DefaultStoreDir, nil); got != 0 {
			t.Errorf("Verify() without fingerprint = %d; want 0", got)
		}
	}
}

// Signatures that Nix made, which Ed25519 makes the same way each time.
func TestSignatures(t *testing.T) {
	files := nix28(t)
	var secrets []nix.SecretKey
	var publics []nix.PublicKey
	for _, name := range []string{"other-2", "cache.example-1"} {
		secret, err := nix.ParseSecretKey(files[name+".secret"])
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, secret)
		publics = append(publics, secret.Public())
	}
	stranger, err := nix.GenerateSecretKey("cache.example-1")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pathInfos28(t) {
		if got := p.Verify(nix.DefaultStoreDir, append(publics, stranger.Public())); got != len(p.Signatures) {
			t.Errorf("Verify(%s) = %d; want %d", p.Path, got, len(p.Signatures))
		}
		if got := p.Verify("/opt/store", publics); got != 0 {
			t.Errorf("Verify(%s) in another directory = %d; want 0", p.Path, got)
		}
		switch want := p.Signatures; len(want) {
		case 2:
			p.Signatures = nil
			for range 2 {
				for _, key := range secrets {
					if err := p.Sign(nix.DefaultStoreDir, key); err != nil {
						t.Fatal(err)
					}
				}
			}
			if diff := diffValues(want, p.Signatures); diff != "" {
				t.Errorf("Sign(%s): -want +got:\n%s", p.Path, diff)
			}
			p.NarSize++
			if got := p.Verify(nix.DefaultStoreDir, publics); got != 0 {
				t.Errorf("Verify(%s) with another size = %d; want 0", p.Path, got)
			}
		case 1:
			if got := p.Verify(nix.DefaultStoreDir, publics[:1]); got != 0 {
				t.Errorf("Verify(%s) with a key that did not sign = %d; want 0", p.Path, got)
			}
		}
	}
	var none nix.PathInfo
	if err := none.Sign(nix.DefaultStoreDir, secrets[0]); err == nil {
		t.Error("Sign() without fingerprint = nil; want an error")
	}
}

func TestIsContentAddressed(t *testing.T) {
	n := 0
	for _, p := range pathInfos28(t) {
		if got, want := p.IsContentAddressed(nix.DefaultStoreDir), !p.CA.IsZero(); got != want {
			t.Errorf("IsContentAddressed(%s) = %v; want %v", p.Path, got, want)
		}
		if p.IsContentAddressed("/opt/store") {
			t.Errorf("IsContentAddressed(%s) in another directory = true; want false", p.Path)
		}
		if !p.CA.IsZero() {
			n++
			p.References = append(p.References, mustPath(t, hashPart+"-foo"))
			if p.IsContentAddressed(nix.DefaultStoreDir) {
				t.Errorf("IsContentAddressed(%s) with one reference more = true; want false", p.Path)
			}
		}
		p.References = append(p.References, p.Path) // one that claims to be a text refers to itself
		p.CA.Method = nix.MethodText
		if p.IsContentAddressed(nix.DefaultStoreDir) {
			t.Errorf("IsContentAddressed(%s) as a text with itself as a reference = true; want false", p.Path)
		}
	}
	if n != 5 {
		t.Errorf("%d paths with a content address; want 5", n)
	}
}

// The document of Nix 2.8, read and written, in its own format and through the others.
func TestJSONDocument(t *testing.T) {
	want := nix28(t)["path-info.json"]
	infos := pathInfos28(t)
	for format := nix.JSON28; format <= nix.JSON3; format++ {
		objects := map[nix.StorePath]map[string]any{mustPath(t, hashPart+"-foo"): nil}
		for i := range infos {
			objects[infos[i].Path] = infos[i].JSON(nix.DefaultStoreDir, format)
		}
		document := nix.JSONDocument(nix.DefaultStoreDir, format, objects)
		if format == nix.JSON28 {
			if diff := diffJSON(t, want, document); diff != "" {
				t.Errorf("JSONDocument(JSON28): -want +got:\n%s", diff)
			}
		}
		text, err := json.Marshal(document)
		if err != nil {
			t.Fatal(err)
		}
		again, err := nix.ParseJSONDocument(nix.DefaultStoreDir, text)
		if err != nil {
			t.Errorf("ParseJSONDocument(format %d) = %v", format, err)
		}
		if diff := diffValues(infos, again); diff != "" {
			t.Errorf("ParseJSONDocument(format %d): -want +got:\n%s", format, diff)
		}
		if _, err := nix.ParseJSONDocument("/opt/store", text); err == nil {
			t.Errorf("ParseJSONDocument(format %d) of another store = nil; want an error", format)
		}
	}
}

func TestParseJSONDocumentErrors(t *testing.T) {
	const good = `"path":"/nix/store/` + hashPart + `-foo","narHash":"sha256-FePFYIlMuycIXPZbWi7LGEiMmZSX9FMbaQenWBzm1Sc=","narSize":1,"references":[]`
	infos, err := nix.ParseJSONDocument(nix.DefaultStoreDir, []byte(`[{`+good+`}]`))
	if err != nil || len(infos) != 1 {
		t.Fatalf("ParseJSONDocument(%s) = %v, %v; want one path", good, infos, err)
	}
	for _, doc := range []string{
		``, `x`, `[`, `[{}]`, `{"info":3}`, `{"a":{}}`,
		`[{` + good + `,"version":4}]`, `[{` + good + `,"version":2}]`, `[{` + good + `,"storeDir":"/opt/store"}]`,
		`[{` + strings.Replace(good, "references", "refs", 1) + `}]`,
		`[{` + good + `,"references":null}]`,
		`[{` + good + `,"references":["` + hashPart + `-foo"]}]`,
		`[{` + good + `,"references":[3]}]`,
		`[{` + good + `,"narHash":"md5-sZRqySSS0jR8YjW00mERhA=="}]`,
		`[{` + good + `,"narHash":null,"narHash":""}]`,
		`[{` + good + `,"narSize":-1}]`,
		`[{` + good + `,"narSize":1.5}]`,
		`[{` + good + `,"ca":"x"}]`, `[{` + good + `,"ca":{}}]`, `[{` + good + `,"ca":7}]`, `[{` + good + `,"ca":{"method":"text","hash":"md5-sZRqySSS0jR8YjW00mERhA=="}}]`,
		`[{` + good + `,"deriver":"` + hashPart + `-foo"}]`,
		`[{` + good + `,"signatures":["x"]}]`, `[{` + good + `,"signatures":[{"keyName":"x"}]}]`, `[{` + good + `,"signatures":[3]}]`,
		`{"version":2,"storeDir":"/nix/store","info":{"/nix/store/` + hashPart + `-foo":{` + good + `}}}`,
		`{"version":9,"storeDir":"/nix/store","info":{"` + hashPart + `-foo":{` + good + `}}}`,
	} {
		if infos, err := nix.ParseJSONDocument(nix.DefaultStoreDir, []byte(doc)); err == nil {
			t.Errorf("ParseJSONDocument(%s) = %v; want an error", doc, infos)
		}
	}
}

func TestNarInfo(t *testing.T) {
	byPath := map[nix.StorePath]nix.PathInfo{}
	for _, p := range pathInfos28(t) {
		byPath[p.Path] = p
	}
	n := 0
	for name, text := range nix28(t) {
		if !strings.HasSuffix(name, ".narinfo") {
			continue
		}
		n++
		got, err := nix.ParseNarInfo(nix.DefaultStoreDir, text)
		if err != nil {
			t.Errorf("ParseNarInfo(%s) = %v", name, err)
			continue
		}
		want := byPath[got.Path]
		want.RegistrationTime, want.Ultimate = 0, false
		if diff := diffValues(want, got.PathInfo); diff != "" {
			t.Errorf("ParseNarInfo(%s): -want +got:\n%s", name, diff)
		}
		if got.URL != "nar/"+got.NarHash.Nix32()+".nar" || got.Compression != "none" || got.FileHash != got.NarHash || got.FileSize != got.NarSize {
			t.Errorf("ParseNarInfo(%s) = %+v; want the file to be the NAR", name, got)
		}
		if diff := cmp.Diff(text, got.Text(nix.DefaultStoreDir)); diff != "" {
			t.Errorf("Text(%s): -want +got:\n%s", name, diff)
		}
	}
	if n != 4 {
		t.Errorf("%d narinfos; want 4", n)
	}
}

func TestParseNarInfo(t *testing.T) {
	const minimal = "StorePath: /nix/store/" + hashPart + "-foo\nURL: foo.nar\nNarHash: sha256:1lr187v6dck1rjh2j6svpikcfz53wyl3qrlcbb405zlh13x0khhh\nNarSize: 7\n"
	want := &nix.NarInfo{
		PathInfo: nix.PathInfo{
			Path:    mustPath(t, hashPart+"-foo"),
			NarHash: mustHash(t, "sha256:1lr187v6dck1rjh2j6svpikcfz53wyl3qrlcbb405zlh13x0khhh"),
			NarSize: 7,
		},
		URL:         "foo.nar",
		Compression: "bzip2",
	}
	for _, more := range []string{"", "Compression: \n", "References: \n", "References:\n", "Deriver: unknown-deriver\n", "CA: \n", "System: x86_64-linux\n", "Foo: bar: baz\n"} {
		got, err := nix.ParseNarInfo(nix.DefaultStoreDir, minimal+more)
		if err != nil {
			t.Errorf("ParseNarInfo(… %q) = %v", more, err)
			continue
		}
		if diff := diffValues(want, got); diff != "" {
			t.Errorf("ParseNarInfo(… %q): -want +got:\n%s", more, diff)
		}
	}
	for _, tt := range []struct{ text, want string }{
		{"", "StorePath missing"},
		{strings.Replace(minimal, "StorePath", "Path", 1), "StorePath missing"},
		{strings.Replace(minimal, "NarHash", "Hash", 1), "NarHash missing"},
		{strings.Replace(minimal, "URL", "Url", 1), "URL missing"},
		{strings.Replace(minimal, "Size: 7", "Size: 0", 1), "NarSize missing or zero"},
		{strings.Replace(minimal, "Size: 7", "Size: -7", 1), "line 4"},
		{strings.Replace(minimal, "Size: 7", "Size: 18446744073709551616", 1), "line 4"},
		{strings.Replace(minimal, "/nix", "/opt", 1), "is not in the Nix store"},
		{strings.Replace(minimal, "sha256", "sha512", 1), "line 3"},
		{minimal + "References: " + hashPart + "-a\nReferences: \n", "line 6: extra References"},
		{minimal + "NarSize: 8\n", "line 5: extra NarSize"},
		{minimal + "References: /nix/store/" + hashPart + "-a\n", "line 5"},
		{minimal + "Deriver: x\n", "line 5"},
		{minimal + "FileHash: x\n", "line 5"},
		{minimal + "FileSize: x\n", "line 5"},
		{minimal + "Sig: x\n", "line 5"},
		{minimal + "CA: x\n", "line 5"},
		{minimal + "no colon\n", "line 5: no colon"},
		{minimal + "System: x", "line 5: no line break"},
	} {
		if got, err := nix.ParseNarInfo(nix.DefaultStoreDir, tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("ParseNarInfo(%q) = %+v, %v; want an error with %q", tt.text, got, err, tt.want)
		}
	}
	if got := (&nix.NarInfo{}).Text(nix.DefaultStoreDir); !strings.Contains(got, "Compression: none\n") {
		t.Errorf("Text() without compression = %q; want none", got)
	}
}

// vector returns a file of Nix's own tests (libstore-tests/data), which are no part of narfs; it skips the test without them.
func vector(tb testing.TB, elem ...string) string {
	tb.Helper()
	path := filepath.Join(append([]string{"..", "..", "..", "shared", "vectors"}, elem...)...)
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Skipf("no test vectors of Nix: %v", err)
	}
	return string(b)
}

// full is the object that Nix's tests call full; the path follows from the rest, which tests MakePathFromCA.
func full(tb testing.TB) *nix.NarInfo {
	tb.Helper()
	ca := nix.ContentAddress{Method: nix.MethodNAR, Hash: mustHash(tb, "sha256-EMIJ+giQ/gLIWoxmPKjno3zHZrxbGymgzGGyZvZBIdM=")}
	bar := mustPath(tb, hashPart+"-bar")
	path, err := nix.MakePathFromCA(nix.DefaultStoreDir, "foo", ca, []nix.StorePath{bar}, true)
	if err != nil {
		tb.Fatal(err)
	}
	narHash := mustHash(tb, "sha256-FePFYIlMuycIXPZbWi7LGEiMmZSX9FMbaQenWBzm1Sc=")
	return &nix.NarInfo{
		PathInfo: nix.PathInfo{
			Path: path, NarHash: narHash, NarSize: 34878, References: nix.SortPaths([]nix.StorePath{path, bar}), CA: ca,
			Deriver: mustPath(tb, hashPart+"-bar.drv"), RegistrationTime: 23423, Ultimate: true,
			Signatures: []nix.Signature{{KeyName: "asdf"}, {KeyName: "qwer"}},
		},
		URL:         "nar/1w1fff338fvdw53sqgamddn1b2xgds473pv6y13gizdbqjv4i5p3.nar.xz",
		Compression: "xz", FileHash: narHash, FileSize: 4029176,
	}
}

func TestNixVectorsJSON(t *testing.T) {
	impure := full(t)
	pure := &nix.PathInfo{Path: impure.Path, NarHash: impure.NarHash, NarSize: impure.NarSize, References: impure.References, CA: impure.CA}
	empty := &nix.PathInfo{Path: impure.Path, NarHash: impure.NarHash}
	for format, folder := range []string{nix.JSON1: "json-1", nix.JSON2: "json-2", nix.JSON3: "json-3"} {
		if folder == "" {
			continue
		}
		format := nix.JSONFormat(format)
		for _, tt := range []struct {
			file string
			info *nix.PathInfo
		}{
			{"impure", &impure.PathInfo},
			{"empty_impure", empty},
			{"pure", pure},
			{"empty_pure", empty},
			{"pure_noversion", pure},
		} {
			if tt.file == "pure_noversion" && format != nix.JSON1 {
				continue
			}
			want := vector(t, "path-info", folder, tt.file+".json")
			if strings.HasSuffix(tt.file, "impure") {
				if diff := diffJSON(t, want, tt.info.JSON(nix.DefaultStoreDir, format)); diff != "" {
					t.Errorf("%s/%s: JSON(): -want +got:\n%s", folder, tt.file, diff)
				}
			}
			document := nix.JSONDocument(nix.DefaultStoreDir, format, map[nix.StorePath]map[string]any{tt.info.Path: {"here": 1}})
			text, err := json.Marshal(document)
			if err != nil {
				t.Fatal(err)
			}
			text = []byte(strings.Replace(string(text), `{"here":1}`, want, 1))
			got, err := nix.ParseJSONDocument(nix.DefaultStoreDir, text)
			if err != nil {
				t.Errorf("%s/%s: ParseJSONDocument() = %v", folder, tt.file, err)
			}
			if diff := diffValues([]nix.PathInfo{*tt.info}, got); diff != "" {
				t.Errorf("%s/%s: ParseJSONDocument(): -want +got:\n%s", folder, tt.file, diff)
			}
		}
		if diff := diffJSON(t, vector(t, "nar-info", folder, "impure.json"), impure.JSON(nix.DefaultStoreDir, format)); diff != "" {
			t.Errorf("nar-info/%s: NarInfo.JSON(): -want +got:\n%s", folder, diff)
		}
	}
}

// The wire's texts of content addresses and store paths against their JSON.
func TestNixVectorsText(t *testing.T) {
	texts := func(name string) (lines []string, want []json.RawMessage) {
		t.Helper()
		if err := json.Unmarshal([]byte(vector(t, "common-protocol", name+".json")), &want); err != nil {
			t.Fatal(err)
		}
		r := wire.NewReader(strings.NewReader(vector(t, "common-protocol", name+".bin")))
		for range want {
			s, err := r.String(300, "text")
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, s)
		}
		return lines, want
	}
	for _, name := range []string{"content-address", "optional-content-address"} {
		lines, want := texts(name)
		for i, line := range lines {
			ca, err := nix.ParseContentAddress(line)
			if err != nil || ca.String() != line {
				t.Errorf("%s: ParseContentAddress(%q) = %v, %v", name, line, ca, err)
			}
			p := nix.PathInfo{CA: ca}
			if diff := diffJSON(t, string(want[i]), p.JSON(nix.DefaultStoreDir, nix.JSON3)["ca"]); diff != "" {
				t.Errorf("%s: %q: -want +got:\n%s", name, line, diff)
			}
		}
	}
	for _, name := range []string{"store-path", "optional-store-path"} {
		lines, want := texts(name)
		for i, line := range lines {
			var got any
			if line != "" {
				path, err := nix.ParseStorePath(nix.DefaultStoreDir, line)
				if err != nil {
					t.Errorf("%s: ParseStorePath(%q) = %v", name, line, err)
				}
				got = path.BaseName()
			}
			if diff := diffJSON(t, string(want[i]), got); diff != "" {
				t.Errorf("%s: %q: -want +got:\n%s", name, line, diff)
			}
		}
	}
	for _, name := range []string{"nar", "text"} {
		want := vector(t, "content-address", name+".json")
		var obj struct{ Method, Hash string }
		if err := json.Unmarshal([]byte(want), &obj); err != nil {
			t.Fatal(err)
		}
		method, err := nix.ParseMethod(obj.Method)
		if err != nil {
			t.Fatal(err)
		}
		p := nix.PathInfo{CA: nix.ContentAddress{Method: method, Hash: mustHash(t, obj.Hash)}}
		if diff := diffJSON(t, want, p.JSON(nix.DefaultStoreDir, nix.JSON2)["ca"]); diff != "" {
			t.Errorf("content-address/%s: -want +got:\n%s", name, diff)
		}
	}
}
