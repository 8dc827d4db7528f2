package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/wire"
)

// graph imports n paths that refer to earlier ones, and returns their infos and contents.
func graph(tb testing.TB, s *store.Store, n int) (infos []nix.PathInfo, archives [][]byte) {
	tb.Helper()
	rng := rand.New(rand.NewPCG(7, uint64(n)))
	for i := range n {
		p := somePath(tb, i, fmt.Sprintf("graph%d", i))
		var refs []nix.StorePath
		for range min(i, rng.IntN(4)) {
			refs = append(refs, infos[rng.IntN(i)].Path)
		}
		if rng.IntN(4) == 0 {
			refs = append(refs, p)
		}
		archive := makeNAR(tb, seeded(rng.IntN(n)))
		info := infoOf(p, archive, refs...)
		if rng.IntN(2) == 0 {
			info.Deriver = somePath(tb, i, fmt.Sprintf("graph%d.drv", i))
		}
		mustImport(tb, s, info, archive)
		infos, archives = append(infos, info), append(archives, archive)
	}
	return infos, archives
}

func export(tb testing.TB, s *store.Store, paths ...nix.StorePath) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := s.ExportStream(tb.Context(), &b, paths...); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// Streams go through real Nix and back and stay the same, byte for byte.
func TestExportAsNix(t *testing.T) {
	t.Parallel()
	n := newRealNix(t)
	s := open(t, t.TempDir())
	infos, archives := graph(t, s, 40)
	all := allPaths(t, s)
	ours := export(t, s, all...)
	n.run(bytes.NewReader(ours), "nix-store", "--import")
	args := []string{"nix-store", "--export"}
	for _, i := range rand.New(rand.NewPCG(1, 1)).Perm(len(all)) {
		args = append(args, s.Dir().Path(all[i]))
	}
	theirs := n.output(nil, args...)
	if !bytes.Equal(ours, theirs) {
		t.Errorf("our stream has %d bytes, that of Nix %d others", len(ours), len(theirs))
	}
	// A subset, whose order follows from it alone.
	some := []string{"nix-store", "--export"}
	var paths []nix.StorePath
	for i := 0; i < len(all); i += 3 {
		paths, some = append(paths, all[i]), append(some, s.Dir().Path(all[i]))
	}
	if !bytes.Equal(export(t, s, paths...), n.output(nil, some...)) {
		t.Error("streams of a subset differ")
	}

	to := open(t, t.TempDir())
	var done []nix.StorePath
	err := to.ImportStream(t.Context(), iotest.HalfReader(bytes.NewReader(theirs)), store.ImportOptions{}, func(i nix.PathInfo) { done = append(done, i.Path) })
	if err != nil {
		t.Fatal(err)
	}
	sorted, err := s.Sorted(all)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sorted, done, exact); diff != "" {
		t.Errorf("done heard of other paths, -want +got:\n%s", diff)
	}
	for i, want := range infos {
		got, err := to.PathInfo(want.Path)
		if err != nil {
			t.Fatal(err)
		}
		want.RegistrationTime = got.RegistrationTime // a stream has none
		mustHave(t, to, want, archives[i])
	}
	mustVerify(t, to)
}

func TestExportErrors(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	infos, _ := graph(t, s, 3)
	if err := s.ExportStream(t.Context(), io.Discard, infos[0].Path, somePath(t, 99, "absent")); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("ExportStream of an absent path = %v; want ErrNotValid", err)
	}
	full := errors.New("full")
	if err := s.ExportStream(t.Context(), failingWriter{full}, infos[0].Path); !errors.Is(err, full) {
		t.Errorf("ExportStream to a full disk = %v; want %v", err, full)
	}
	if pinned := s.Pinned(); len(pinned) > 0 {
		t.Errorf("pins are left: %v", pinned)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

// entry is one path of a stream that a test makes wrong.
type entry struct {
	archive         []byte
	magic           uint64
	path            string
	refs            []string
	deriver, legacy string
}

func stream(entries ...entry) []byte {
	var b bytes.Buffer
	w := wire.NewWriter(&b)
	for _, e := range entries {
		_ = w.Uint64(1)
		_, _ = w.Write(e.archive)
		if e.magic == 0 {
			e.magic = 0x4558494e
		}
		_ = w.Uint64(e.magic)
		_ = w.String(e.path)
		_ = w.Uint64(uint64(len(e.refs)))
		for _, ref := range e.refs {
			_ = w.String(ref)
		}
		_ = w.String(e.deriver)
		if e.legacy == "" {
			_ = w.Uint64(0)
			continue
		}
		_ = w.Uint64(1)
		_ = w.String(e.legacy)
	}
	_ = w.Uint64(0)
	_ = w.Flush()
	return b.Bytes()
}

func TestImportStream(t *testing.T) {
	t.Parallel()
	full := func(n int) string { return "/nix/store/" + somePath(t, n, "p").BaseName() }
	archive := makeNAR(t, seeded(1))
	e := func(n int, refs ...string) entry { return entry{archive: archive, path: full(n), refs: refs} }
	change := func(e entry, f func(*entry)) entry { f(&e); return e }
	whole := stream(e(1), e(2, full(1)))
	for _, tt := range []struct {
		name   string
		stream []byte
		want   string // the error
		valid  int    // how many paths, from 1 on
	}{
		{"nothing", stream(), "", 0},
		{"references", stream(e(1), e(2, full(2), full(1)), e(3, full(2))), "", 3},
		{"twice", stream(e(1), e(1), e(1), e(2, full(1)), e(2)), "", 2},
		{"legacy signature", stream(change(e(1), func(e *entry) { e.legacy = "old signature" }), e(2)), "", 2},
		{"deriver", stream(change(e(1), func(e *entry) { e.deriver = full(3) + ".drv" })), "", 1},
		{"dangling reference", stream(e(1), e(2, full(9)), e(3, full(2))), "path '" + full(9) + "' is not valid", 1},
		{"reference to a later path", stream(e(1), e(2, full(3)), e(3)), "path '" + full(3) + "' is not valid", 1},
		{"no stream", append([]byte{2}, make([]byte, 100)...), "input doesn't look like something created by 'nix-store --export'", 0},
		{"empty", nil, "unexpected EOF", 0},
		{"wrong magic", stream(e(1), change(e(2), func(e *entry) { e.magic = 1 })), "Nix archive cannot be imported; wrong format", 1},
		{"no store path", stream(e(1), change(e(2), func(e *entry) { e.path = "/tmp/x" })), "is not in the Nix store", 1},
		{"bad name", stream(change(e(1), func(e *entry) { e.path = full(1) + "/x" })), "illegal character", 0},
		{"bad reference", stream(e(1, "/nix/store/x")), "too short", 0},
		{"bad deriver", stream(change(e(1), func(e *entry) { e.deriver = "x" })), "is not in the Nix store", 0},
		{"no NAR", stream(change(e(1), func(e *entry) { e.archive = []byte("12345678901234567890123456789012") })), "Nix archive cannot be imported", 0},
		{"long name", stream(change(e(1), func(e *entry) { e.path = full(1) + strings.Repeat("x", 5000) })), "store path", 0},
		{"in the middle of a NAR", whole[:len(whole)-len(archive)], "ends early", 1},
		{"in the middle of a name", whole[:len(whole)-100], "unexpected EOF", 1},
		{"without an end", whole[:len(whole)-8], "unexpected EOF", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := open(t, t.TempDir())
			done := 0
			err := s.ImportStream(t.Context(), bytes.NewReader(tt.stream), store.ImportOptions{}, func(nix.PathInfo) { done++ })
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ImportStream = %v; want %s", err, tt.want)
			}
			if done != tt.valid {
				t.Errorf("done heard of %d paths; want %d", done, tt.valid)
			}
			for n := 1; n < 5; n++ {
				if ok, err := s.IsValid(somePath(t, n, "p")); ok != (n <= tt.valid) || err != nil {
					t.Errorf("IsValid(%d) = %v, %v; want %v", n, ok, err, n <= tt.valid)
				}
			}
			mustVerify(t, s)
		})
	}
}

// What follows a stream belongs to others.
func TestImportStreamReadsOne(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	r := wire.NewReader(io.MultiReader(bytes.NewReader(stream()), strings.NewReader("rest")))
	if err := s.ImportStream(t.Context(), r, store.ImportOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(r); string(rest) != "rest" || err != nil {
		t.Errorf("behind the stream there is %q, %v; want rest", rest, err)
	}
}

func TestCopy(t *testing.T) {
	t.Parallel()
	from, to := open(t, t.TempDir()), open(t, t.TempDir())
	infos, archives := graph(t, from, 20)
	last := infos[len(infos)-1]
	if err := from.AddSignatures(t.Context(), last.Path, nix.Signature{KeyName: "k"}); err != nil {
		t.Fatal(err)
	}
	ca, err := from.Add(t.Context(), strings.NewReader("text"), store.AddOptions{Name: "ca", Method: nix.MethodText, References: []nix.StorePath{last.Path}})
	if err != nil {
		t.Fatal(err)
	}
	all := allPaths(t, from)
	if err := store.Copy(t.Context(), to, from, []nix.StorePath{ca.Path}, store.CopyOptions{}); !errors.Is(err, store.ErrNotValid) {
		t.Errorf("Copy without references = %v; want ErrNotValid", err)
	}
	copied, started, done := 0, 0, 0
	o := store.CopyOptions{Start: func(nix.PathInfo) { started++ }, Progress: func(n int) { copied += n }, Done: func(nix.PathInfo) { done++ }}
	for range 2 {
		if err := store.Copy(t.Context(), to, from, all, o); err != nil {
			t.Fatal(err)
		}
	}
	_, size, err := from.Totals()
	if err != nil || int64(copied) != size || started != len(all) || done != len(all) {
		t.Errorf("Copy told of %d bytes, %d starts, %d ends (%v); want %d, %d, %d", copied, started, done, err, size, len(all), len(all))
	}
	for i, want := range infos {
		if want.Path == last.Path {
			want.AddSignatures(nix.Signature{KeyName: "k"})
		}
		mustHave(t, to, want, archives[i])
	}
	mustHave(t, to, ca, readNAR(t, from, ca.Path))
	mustVerify(t, to)
	if pinned := from.Pinned(); len(pinned) > 0 {
		t.Errorf("pins are left: %v", pinned)
	}
	other := options()
	other.StoreDir = "/other/store"
	elsewhere, err := store.Open(t.TempDir(), other)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, elsewhere)
	if err := store.Copy(t.Context(), elsewhere, from, all, o); err == nil {
		t.Error("Copy to a store for another directory succeeded")
	}
}

// Streams with bits flipped are refused, or import something; nothing half is left.
func TestImportFlippedStream(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	full := func(n int) string { return "/nix/store/" + somePath(t, n, "p").BaseName() }
	archive := makeNAR(t, node{entries: map[string]node{"a": {text: "x"}, "b": {link: "a"}}})
	good := stream(entry{archive: archive, path: full(1)}, entry{archive: archive, path: full(2), refs: []string{full(1)}, deriver: full(3), legacy: "x"})
	for i := range 8 * len(good) {
		if i%37 != 0 || i == 0 { // each import takes its time
			continue
		}
		in := bytes.Clone(good)
		in[i/8] ^= 1 << (i % 8)
		err := s.ImportStream(t.Context(), bytes.NewReader(in), store.ImportOptions{}, nil)
		paths := allPaths(t, s)
		if err == nil && len(paths) != 2 || len(paths) > 2 {
			t.Errorf("with bit %d flipped: %v, and %d paths are valid", i, err, len(paths))
		}
		if locks := s.Locks(); len(locks) > 0 {
			t.Fatalf("locks are left: %v", locks)
		}
		if len(paths) == 0 {
			continue
		}
		if err := s.Delete(t.Context(), paths...); err != nil {
			t.Fatal(err)
		}
	}
	mustVerify(t, s)
}

func FuzzReadExport(f *testing.F) {
	full := func(n int) string { return "/nix/store/" + somePath(f, n, "p").BaseName() }
	archive := makeNAR(f, node{entries: map[string]node{"a": {text: "x"}, "b": {link: "a"}}})
	f.Add(stream())
	f.Add(stream(entry{archive: archive, path: full(1)}, entry{archive: archive, path: full(2), refs: []string{full(1)}, deriver: full(3), legacy: "x"}))
	f.Fuzz(func(t *testing.T, in []byte) {
		read := func(in []byte) (entries []entry, err error) {
			err = store.ReadExport(in, func(info nix.PathInfo) error {
				e := entry{archive: archive, path: nix.DefaultStoreDir.Path(info.Path)}
				for _, ref := range info.References {
					e.refs = append(e.refs, nix.DefaultStoreDir.Path(ref))
				}
				if !info.Deriver.IsZero() {
					e.deriver = nix.DefaultStoreDir.Path(info.Deriver)
				}
				entries = append(entries, e)
				return nil
			})
			return entries, err
		}
		entries, err := read(in)
		again, err2 := read(stream(entries...))
		if err2 != nil {
			t.Fatalf("what was read and written is refused: %v (%v)", err2, err)
		}
		if diff := cmp.Diff(entries, again, cmp.AllowUnexported(entry{})); diff != "" {
			t.Errorf("read, written and read again:\n%s", diff)
		}
	})
}
