package store_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar"
	"github.com/narfs/narfs/nar/cas"
	"github.com/narfs/narfs/nar/chunk"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// A store is opened for each check of a model test, which takes 50 ms.
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		checks := "12"
		if os.Getenv("NARFS_TEST_LONG") != "" {
			checks = "300"
		}
		if err := f.Value.Set(checks); err != nil {
			panic(err)
		}
	}
	m.Run()
}

// options make many chunks and packs of little data.
func options() store.Options {
	return store.Options{Content: cas.Options{
		Chunks: chunk.Params{Min: 64, Avg: 256, Max: 1024}, FrameSize: 4 << 10, PackSize: 256 << 10, Reserve: -1, CacheBytes: 64 << 10,
	}}
}

func open(tb testing.TB, dir string) *store.Store {
	tb.Helper()
	s, err := store.Open(dir, options())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { mustClose(tb, s) })
	return s
}

func mustClose(tb testing.TB, c io.Closer) {
	tb.Helper()
	if err := c.Close(); err != nil {
		tb.Error(err)
	}
}

// exact compares the values of package nix, which are comparable.
var exact = cmp.Options{
	cmp.Comparer(func(a, b nix.StorePath) bool { return a == b }),
	cmp.Comparer(func(a, b nix.Hash) bool { return a == b }),
}

// somePath makes a path of a number.
func somePath(tb testing.TB, n int, name string) nix.StorePath {
	tb.Helper()
	sum := sha256.Sum256(fmt.Append(nil, "path", n))
	p, err := nix.ParseBaseName(nix.EncodeNix32(sum[:20]) + "-" + name)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// node is a file system object for a NAR: text of a file, link to a target, or a directory.
type node struct {
	text    string
	exec    bool
	link    string
	entries map[string]node
}

func makeNAR(tb testing.TB, n node) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := nar.NewWriter(&b)
	var put func(depth int, name string, n node)
	put = func(depth int, name string, n node) {
		h := nar.Header{Depth: depth, Name: name, Type: nar.TypeRegular, Executable: n.exec, Size: int64(len(n.text))}
		switch {
		case n.link != "":
			h = nar.Header{Depth: depth, Name: name, Type: nar.TypeSymlink, Target: n.link}
		case n.entries != nil:
			h = nar.Header{Depth: depth, Name: name, Type: nar.TypeDirectory}
		}
		if err := w.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
		if _, err := io.WriteString(w, n.text); err != nil {
			tb.Fatal(err)
		}
		names := make([]string, 0, len(n.entries))
		for name := range n.entries {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			put(depth+1, name, n.entries[name])
		}
	}
	put(1, "", n)
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// seeded is a small tree whose contents share much with those of near seeds.
func seeded(seed int) node {
	rng := rand.New(rand.NewPCG(uint64(seed), 1))
	dir := node{entries: map[string]node{"link": {link: "f0"}, "sub": {entries: map[string]node{}}}}
	for i := range 1 + seed%4 {
		words := []string{fmt.Sprint(seed)}
		for range rng.IntN(200) {
			words = append(words, fmt.Sprintf("word%d", rng.IntN(50)))
		}
		dir.entries[fmt.Sprintf("f%d", i)] = node{text: strings.Join(words, " "), exec: i%2 == 1}
	}
	shared := rand.New(rand.NewPCG(uint64(seed/3), 2))
	big := make([]byte, shared.IntN(20_000))
	for i := range big {
		big[i] = byte(shared.Uint32())
	}
	dir.entries["sub"].entries["big"] = node{text: string(big)}
	return dir
}

// infoOf is what there is to say of a NAR.
func infoOf(p nix.StorePath, archive []byte, refs ...nix.StorePath) nix.PathInfo {
	return nix.PathInfo{
		Path: p, NarHash: nix.NewSHA256(sha256.Sum256(archive)), NarSize: uint64(len(archive)), References: nix.SortPaths(refs), RegistrationTime: 1234567,
	}
}

func mustImport(tb testing.TB, s *store.Store, info nix.PathInfo, archive []byte) {
	tb.Helper()
	if err := s.Import(tb.Context(), info, bytes.NewReader(archive), store.ImportOptions{}); err != nil {
		tb.Fatal(err)
	}
}

// mustHave checks that a path is valid, with this info and these contents.
func mustHave(tb testing.TB, s *store.Store, want nix.PathInfo, archive []byte) {
	tb.Helper()
	got, err := s.PathInfo(want.Path)
	if err != nil {
		tb.Fatal(err)
	}
	if diff := cmp.Diff(want, got, exact); diff != "" {
		tb.Errorf("PathInfo(%s), -want +got:\n%s", want.Path, diff)
	}
	if got := readNAR(tb, s, want.Path); !bytes.Equal(got, archive) {
		tb.Errorf("the NAR of %s has %d other bytes; want %d", want.Path, len(got), len(archive))
	}
}

func readNAR(tb testing.TB, s *store.Store, p nix.StorePath) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := s.WriteNAR(tb.Context(), p, &b); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// absent checks that a path is not valid and has left no trace that one can see.
func absent(tb testing.TB, s *store.Store, p nix.StorePath) {
	tb.Helper()
	if _, err := s.PathInfo(p); !errors.Is(err, store.ErrNotValid) {
		tb.Errorf("PathInfo(%s) = %v; want ErrNotValid", p, err)
	}
	if _, err := s.Object(p); !errors.Is(err, store.ErrNotValid) {
		tb.Errorf("Object(%s) = %v; want ErrNotValid", p, err)
	}
	if _, err := s.ByHashPart(p.HashPart()); !errors.Is(err, store.ErrNotValid) {
		tb.Errorf("ByHashPart(%s) = %v; want ErrNotValid", p.HashPart(), err)
	}
}

func mustVerify(tb testing.TB, s *store.Store) {
	tb.Helper()
	err := s.Verify(tb.Context(), store.VerifyOptions{Contents: true}, func(p store.Problem) { tb.Errorf("Verify found %v", p.Err) })
	if err != nil {
		tb.Fatal(err)
	}
	if locks := s.Locks(); len(locks) > 0 {
		tb.Errorf("locks are left: %v", locks)
	}
}

func allPaths(tb testing.TB, s *store.Store) (paths []nix.StorePath) {
	tb.Helper()
	for info, err := range s.All() {
		if err != nil {
			tb.Fatal(err)
		}
		paths = append(paths, info.Path)
	}
	return paths
}

// realNix is a store of the real Nix in a folder of its own.
type realNix struct {
	tb   testing.TB
	root string
}

func newRealNix(tb testing.TB) realNix {
	tb.Helper()
	if _, err := exec.LookPath("nix-store"); err != nil {
		tb.Skip("needs nix-store, as in Debian's package nix-bin")
	}
	n := realNix{tb, filepath.Join(tb.TempDir(), "nix")}
	tb.Cleanup(func() { // the store is read-only
		err := filepath.WalkDir(n.root, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				err = os.Chmod(path, 0o700)
			}
			return err
		})
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			tb.Error(err)
		}
	})
	return n
}

// command is one of Nix's commands with this store.
func (n realNix) command(args ...string) *exec.Cmd {
	n.tb.Helper()
	if args[0] == "nix" {
		args = append([]string{"nix", "--extra-experimental-features", "nix-command ca-derivations"}, args[1:]...)
	}
	cmd := exec.CommandContext(n.tb.Context(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "NIX_REMOTE="+n.root, "HOME="+n.root)
	return cmd
}

func (n realNix) run(stdin io.Reader, args ...string) string {
	n.tb.Helper()
	return strings.TrimSpace(string(n.output(stdin, args...)))
}

func (n realNix) output(stdin io.Reader, args ...string) []byte {
	n.tb.Helper()
	cmd := n.command(args...)
	cmd.Stdin = stdin
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		n.tb.Fatalf("%v: %v: %s", args, err, stderr.String())
	}
	return out
}

// dump returns the NAR of a path in Nix's store.
func (n realNix) dump(p nix.StorePath) []byte {
	n.tb.Helper()
	return n.output(nil, "nix-store", "--dump", n.root+nix.DefaultStoreDir.Path(p))
}

// infos yields what Nix knows of all its paths.
func (n realNix) infos() func(func(nix.PathInfo) bool) {
	n.tb.Helper()
	infos, err := nix.ParseJSONDocument(nix.DefaultStoreDir, []byte(n.run(nil, "nix", "path-info", "--all", "--json")))
	if err != nil {
		n.tb.Fatal(err)
	}
	return slices.Values(infos)
}
