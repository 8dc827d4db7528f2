package store_test

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/wire"
	"github.com/narfs/narfs/nar"
)

// serveAdd is what a client sends to nix-store --serve to add one path.
func serveAdd(tb testing.TB, dir nix.StoreDir, info nix.PathInfo, archive []byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := wire.NewWriter(&b)
	const magic, version, addToStoreNar = 0x390c9deb, 2<<8 | 7, 9
	for _, n := range []uint64{magic, version, addToStoreNar} {
		_ = w.Uint64(n)
	}
	_ = w.String(dir.Path(info.Path))
	_ = w.String("")
	_ = w.String(info.NarHash.Base16())
	_ = w.Uint64(uint64(len(info.References)))
	for _, ref := range info.References {
		_ = w.String(dir.Path(ref))
	}
	_ = w.Uint64(uint64(info.RegistrationTime))
	_ = w.Uint64(info.NarSize)
	_ = w.Uint64(0)
	_ = w.Uint64(0)
	_ = w.String(info.CA.String())
	_, _ = w.Write(archive)
	if err := w.Flush(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// What is refused, and that the words are those of the real Nix.
func TestImportErrors(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	file := makeNAR(t, node{text: "contents"})
	tree := makeNAR(t, seeded(3))
	p := somePath(t, 1, "p")
	good := infoOf(p, file)
	hash := nix.NewSHA256([32]byte{1, 2, 3})
	missing := somePath(t, 77, "missing")
	with := func(change func(*nix.PathInfo)) nix.PathInfo {
		info := good
		change(&info)
		return info
	}
	for _, tt := range []struct {
		name    string
		info    nix.PathInfo
		archive []byte
		want    string
		ours    bool // Nix has no such error, or not on this way
	}{
		{name: "hash", info: with(func(i *nix.PathInfo) { i.NarHash = hash }), archive: file, want: fmt.Sprintf(
			"hash mismatch importing path '/nix/store/%s';\n  specified: %s\n  got:       %s", p, hash, good.NarHash)},
		{name: "size", info: with(func(i *nix.PathInfo) { i.NarSize += 8 }), archive: append(bytes.Clone(file), make([]byte, 8)...), want: fmt.Sprintf(
			"size mismatch importing path '/nix/store/%s';\n  specified: 128\n  got:       120", p), ours: true},
		{name: "reference", info: with(func(i *nix.PathInfo) { i.References = []nix.StorePath{missing} }), archive: file, want: fmt.Sprintf(
			"path '/nix/store/%s' is not valid", missing)},
		{name: "content address", info: with(func(i *nix.PathInfo) { i.CA = nix.ContentAddress{Method: nix.MethodFlat, Hash: hash} }), archive: file, want: fmt.Sprintf(
			"ca hash mismatch importing path '/nix/store/%s';\n  specified: %s\n  got:       %s", p, hash, nix.NewSHA256(sha256.Sum256([]byte("contents"))))},
		{name: "name", info: with(func(i *nix.PathInfo) { i.CA = nix.ContentAddress{Method: nix.MethodNAR, Hash: good.NarHash} }), archive: file, want: fmt.Sprintf(
			"cannot add path '/nix/store/%s' to the Nix store because it claims to be content-addressed but isn't", p)},
		{name: "file wanted", info: with(func(i *nix.PathInfo) {
			i.NarHash, i.NarSize = infoOf(p, tree).NarHash, uint64(len(tree))
			i.CA = nix.ContentAddress{Method: nix.MethodText, Hash: hash}
		}), archive: tree, want: "its content address is that of a file, and it is a directory", ours: true},
		{name: "git", info: with(func(i *nix.PathInfo) { i.CA = nix.ContentAddress{Method: nix.MethodGit, Hash: hash} }), archive: file, want: "by git are not supported", ours: true},
		{name: "algorithm", info: with(func(i *nix.PathInfo) { i.NarHash = sha1Of(t, file) }), archive: file, want: "must be of sha256", ours: true},
		{name: "no path", info: with(func(i *nix.PathInfo) { i.Path = nix.StorePath{} }), archive: file, want: "no path", ours: true},
		{name: "truncated", info: good, archive: file[:50], want: "it ends early", ours: true},
		{name: "garbage", info: good, archive: []byte("this is no NAR at all, not in the least"), want: "import path '/nix/store/", ours: true},
	} {
		err := s.Import(t.Context(), tt.info, bytes.NewReader(tt.archive), store.ImportOptions{})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Import = %v; want %s", tt.name, err, tt.want)
			continue
		}
		absent(t, s, p)
		if tt.ours {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cmd := newRealNix(t).command("nix-store", "--serve", "--write")
			cmd.Stdin = bytes.NewReader(serveAdd(t, s.Dir(), tt.info, tt.archive))
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Run(); err == nil {
				t.Error("Nix accepted it")
			}
			if got := unformatted(stderr.String()); !strings.Contains(got, unformatted(err.Error())) {
				t.Errorf("Import = %q; Nix says %q", err, got)
			}
		})
	}
	mustImport(t, s, good, file)
	mustHave(t, s, good, file)
	mustVerify(t, s)
}

func sha1Of(tb testing.TB, b []byte) nix.Hash {
	tb.Helper()
	sum := sha1.Sum(b)
	h, err := nix.NewHash(nix.SHA1, sum[:])
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

// unformatted is a text without colours and layout.
func unformatted(s string) string {
	s = regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(s, "")
	return strings.Join(strings.Fields(s), " ")
}

// An import reads one NAR and nothing behind it, also when the path is valid already.
func TestImportReadsOne(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	archive := makeNAR(t, seeded(2))
	info := infoOf(somePath(t, 1, "p"), archive)
	for _, repair := range []bool{false, false, true} {
		r := wire.NewReader(io.MultiReader(bytes.NewReader(archive), strings.NewReader("rest")))
		if err := s.Import(t.Context(), info, r, store.ImportOptions{Repair: repair}); err != nil {
			t.Fatal(err)
		}
		if rest, err := io.ReadAll(r); string(rest) != "rest" || err != nil {
			t.Errorf("behind the NAR there is %q, %v; want rest", rest, err)
		}
		mustHave(t, s, info, archive)
	}
	var format *nar.FormatError
	if err := s.Import(t.Context(), info, strings.NewReader("rubbish of some length"), store.ImportOptions{}); !errors.As(err, &format) {
		t.Errorf("Import of rubbish for a valid path = %v; want *nar.FormatError", err)
	}
	// What repairs must be the same.
	err := s.Import(t.Context(), info, bytes.NewReader(makeNAR(t, seeded(1))), store.ImportOptions{Repair: true})
	if _, ok := errors.AsType[*store.MismatchError](err); !ok {
		t.Errorf("repair with other contents = %v; want *MismatchError", err)
	}
	mustHave(t, s, info, archive)
}

// Import finds out what it is not told.
func TestImportFills(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	archive := makeNAR(t, seeded(2))
	want := infoOf(somePath(t, 1, "p"), archive)
	mustImport(t, s, nix.PathInfo{Path: want.Path}, archive)
	got, err := s.PathInfo(want.Path)
	if err != nil || got.NarHash != want.NarHash || got.NarSize != want.NarSize || got.RegistrationTime < 1e9 {
		t.Errorf("PathInfo = %+v, %v; want hash and size of %+v and a time", got, err, want)
	}
}

// Content addresses with self-references, as real Nix makes them.
func TestSelfReference(t *testing.T) {
	t.Parallel()
	n := newRealNix(t)
	from, to := open(t, t.TempDir()), open(t, t.TempDir())
	p := somePath(t, 1, "selfish")
	text := strings.Repeat("filler ", 3000)
	archive := makeNAR(t, node{entries: map[string]node{
		"a": {text: text + from.Dir().Path(p) + text + p.HashPart() + p.HashPart()},
		"l": {link: from.Dir().Path(p) + "/a"},
	}})
	mustImport(t, from, infoOf(p, archive, p), archive)
	var stream bytes.Buffer
	if err := from.ExportStream(t.Context(), &stream, p); err != nil {
		t.Fatal(err)
	}
	n.run(&stream, "nix-store", "--import")
	n.run(nil, "nix", "store", "make-content-addressed", from.Dir().Path(p))
	for info := range n.infos() {
		if info.CA.IsZero() {
			continue
		}
		archive := n.dump(info.Path)
		mustImport(t, to, info, archive)
		mustHave(t, to, info, archive)
		wrong := info
		wrong.CA.Hash = info.NarHash
		err := from.Import(t.Context(), wrong, bytes.NewReader(archive), store.ImportOptions{})
		if mismatch, ok := errors.AsType[*store.MismatchError](err); !ok || mismatch.What != "ca hash" {
			t.Errorf("Import with the hash of the NAR as it is = %v; want a ca hash mismatch", err)
		}
		return
	}
	t.Error("Nix made no content-addressed path")
}
