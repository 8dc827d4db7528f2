package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/nar"
)

// trees makes things to add: a file, an executable, a link, an empty file and folder, a tree with odd names.
func trees(tb testing.TB) map[string]string {
	tb.Helper()
	dir := tb.TempDir()
	write := func(name, text string, mode os.FileMode) {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), mode); err != nil {
			tb.Fatal(err)
		}
	}
	write("file", "some text\n", 0o640)
	write("executable", "#!/bin/sh\n", 0o755)
	write("empty-file", "", 0o600)
	write("large", strings.Repeat("a large file, larger than is kept in memory\n", 30_000), 0o600)
	write("tree/sub/deeper/x", "x", 0o600)
	write("tree/sub.y", "between", 0o700)
	write("tree/ü \n\xff", "odd", 0o600)
	write("tree/CASE", "1", 0o600)
	write("tree/case", "2", 0o600)
	for link, target := range map[string]string{"link": "file", "tree/dangling": "/nowhere"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			tb.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "empty-folder"), 0o700); err != nil {
		tb.Fatal(err)
	}
	all := map[string]string{}
	for _, name := range []string{"file", "executable", "empty-file", "large", "tree", "link", "empty-folder"} {
		all[name] = filepath.Join(dir, name)
	}
	return all
}

// The same path as nix-store --add, --add-fixed and nix store add-path give, with the same contents and content address.
func TestAddAsNix(t *testing.T) {
	t.Parallel()
	n := newRealNix(t)
	s := open(t, t.TempDir())
	type question struct {
		name, path string
		o          store.AddOptions
		args       []string
	}
	var questions []question
	for name, path := range trees(t) {
		questions = append(questions, question{name, path, store.AddOptions{}, []string{"nix-store", "--add"}},
			question{name, path, store.AddOptions{Name: "other-name"}, []string{"nix", "store", "add-path", "--name", "other-name"}})
		if name == "tree" || name == "executable" {
			for algo := nix.MD5; algo <= nix.SHA512; algo++ {
				questions = append(questions, question{name, path, store.AddOptions{Algo: algo}, []string{"nix-store", "--add-fixed", "--recursive", algo.String()}})
			}
		}
		if name == "executable" || name == "large" {
			for algo := nix.MD5; algo <= nix.SHA512; algo++ {
				questions = append(questions, question{name, path, store.AddOptions{Algo: algo, Method: nix.MethodFlat}, []string{"nix-store", "--add-fixed", algo.String()}})
			}
		}
	}
	for _, q := range questions {
		info, err := s.AddTree(t.Context(), q.path, q.o)
		if err != nil {
			t.Errorf("%v %s: %v", q.args, q.name, err)
			continue
		}
		if got, want := s.Dir().Path(info.Path), n.run(nil, append(q.args, q.path)...); got != want {
			t.Errorf("AddTree(%s, %+v) = %s; %v says %s", q.name, q.o, got, q.args, want)
		}
		again, err := s.AddTree(t.Context(), q.path, q.o)
		if err != nil || again.Path != info.Path {
			t.Errorf("AddTree(%s) once more = %s, %v; want %s", q.name, again.Path, err, info.Path)
		}
	}
	count := 0
	for want := range n.infos() {
		count++
		got, err := s.PathInfo(want.Path)
		if err != nil || got.NarHash != want.NarHash || got.NarSize != want.NarSize || got.CA != want.CA {
			t.Errorf("PathInfo(%s) = %+v, %v; Nix has %+v", want.Path, got, err, want)
		}
	}
	if got := len(allPaths(t, s)); got != count {
		t.Errorf("there are %d paths; Nix has %d", got, count)
	}
	mustVerify(t, s)
}

// Derivations are texts with references.
func TestAddTextAsNix(t *testing.T) {
	t.Parallel()
	n := newRealNix(t)
	s := open(t, t.TempDir())
	n.run(nil, "nix-instantiate", "-E", `
		let drv = name: inputs: derivation { inherit name inputs; system = "x"; builder = builtins.toFile "builder" "text"; };
		in drv "top" [ (drv "one" [ ]) (drv "two" [ (drv "one" [ ]) ]) ]`)
	var paths []nix.StorePath
	infos := map[nix.StorePath]nix.PathInfo{}
	for info := range n.infos() {
		infos[info.Path] = info
		paths = append(paths, info.Path)
	}
	if len(paths) != 4 {
		t.Fatalf("Nix made %d paths; want 4", len(paths))
	}
	for len(paths) > 0 { // references first
		p := paths[0]
		paths = paths[1:]
		want := infos[p]
		if missing, err := s.Missing(want.References); err != nil || len(missing) > 0 {
			paths = append(paths, p)
			continue
		}
		text, err := os.ReadFile(n.root + s.Dir().Path(p))
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Add(t.Context(), iotest.HalfReader(bytes.NewReader(text)), store.AddOptions{Name: p.Name(), Method: nix.MethodText, References: want.References})
		if err != nil {
			t.Fatal(err)
		}
		want.RegistrationTime = got.RegistrationTime
		mustHave(t, s, want, n.dump(p))
	}
	mustVerify(t, s)
}

// Add takes the same things as streams.
func TestAdd(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	for name, path := range trees(t) {
		for _, o := range []store.AddOptions{{}, {Algo: nix.SHA512}, {Method: nix.MethodFlat}, {Method: nix.MethodFlat, Algo: nix.MD5}, {Method: nix.MethodText}} {
			o.Name = "n"
			want, err := s.AddTree(t.Context(), path, o)
			if name == "tree" || name == "link" || name == "empty-folder" {
				if o.Method != 0 {
					if err == nil || !strings.Contains(err.Error(), "not a regular file") {
						t.Errorf("AddTree(%s, %+v) = %v; want that it is no file", name, o, err)
					}
					continue
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			var in bytes.Buffer
			if o.Method == 0 {
				err = nar.Dump(&in, path, nar.DumpOptions{})
			} else {
				var b []byte
				b, err = os.ReadFile(path)
				in.Write(b)
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.Add(t.Context(), &in, o)
			if err != nil || got.Path != want.Path || got.CA != want.CA {
				t.Errorf("Add(%s, %+v) = %+v, %v; AddTree said %+v", name, o, got, err, want)
			}
		}
	}
	mustVerify(t, s)
}

func TestAddErrors(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	ref := somePath(t, 1, "ref")
	broken := errors.New("broken")
	for _, tt := range []struct {
		path string // or
		r    io.Reader
		o    store.AddOptions
		want string
	}{
		{path: filepath.Join(dir, "absent"), want: "no such file"},
		{path: fifo, want: "fifo"},
		{path: fifo, o: store.AddOptions{Method: nix.MethodFlat}, want: "not a regular file"},
		{path: file, o: store.AddOptions{Name: "a/b"}, want: "illegal character"},
		{path: file, o: store.AddOptions{Name: ".."}, want: "must not begin with"},
		{path: file, o: store.AddOptions{Method: nix.MethodText, Algo: nix.SHA1}, want: "text needs sha256"},
		{path: file, o: store.AddOptions{Method: nix.MethodGit}, want: "git"},
		{path: file, o: store.AddOptions{Method: nix.MethodFlat, References: []nix.StorePath{ref}}, want: "not allowed to refer"},
		{path: file, o: store.AddOptions{Method: nix.MethodText, References: []nix.StorePath{ref}}, want: "is not valid"},
		{path: file, o: store.AddOptions{References: []nix.StorePath{ref}}, want: "is not valid"},
		{r: strings.NewReader("x"), o: store.AddOptions{}, want: "name must not be empty"},
		{r: strings.NewReader("no NAR"), o: store.AddOptions{Name: "x"}, want: "add x: "},
		{r: iotest.ErrReader(broken), o: store.AddOptions{Name: "x"}, want: "broken"},
		{r: iotest.ErrReader(broken), o: store.AddOptions{Name: "x", Method: nix.MethodFlat}, want: "broken"},
		{r: io.MultiReader(strings.NewReader(strings.Repeat("x", 2<<20)), iotest.ErrReader(broken)), o: store.AddOptions{Name: "x", Method: nix.MethodFlat}, want: "broken"},
	} {
		var err error
		if tt.r != nil {
			_, err = s.Add(t.Context(), tt.r, tt.o)
		} else {
			_, err = s.AddTree(t.Context(), tt.path, tt.o)
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("adding %s with %+v = %v; want %s", tt.path, tt.o, err, tt.want)
		}
	}
	if paths := allPaths(t, s); len(paths) > 0 {
		t.Errorf("paths are left: %v", paths)
	}
	if left, err := os.ReadDir(filepath.Join(s.StateDir(), "tmp")); err == nil && len(left) > 0 {
		t.Errorf("files are left: %v", left)
	}
	mustVerify(t, s)
}

// The finder finds what bytes.Index finds, wherever the stream is cut.
func TestFind(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		needle := rapid.SliceOfN(rapid.SampledFrom([]byte("ab")), 1, 6).Draw(rt, "needle")
		pieces := rapid.SliceOf(rapid.SliceOfN(rapid.SampledFrom([]byte("abc")), 0, 12)).Draw(rt, "pieces")
		var want []int64
		all := bytes.Join(pieces, nil)
		for at := 0; ; {
			i := bytes.Index(all[at:], needle)
			if i < 0 {
				break
			}
			want = append(want, int64(at+i))
			at += i + len(needle)
		}
		if got := store.Find(needle, pieces); fmt.Sprint(got) != fmt.Sprint(want) {
			rt.Errorf("Find(%q, %q) = %v; want %v", needle, pieces, got, want)
		}
	})
}
