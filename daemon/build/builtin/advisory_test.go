package builtin_test

import (
	"archive/tar"
	"bytes"
	"errors"
	iofs "io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/narfs/narfs/daemon/build/builtin"
	"github.com/narfs/narfs/internal/wire"
)

// outside is a folder in which nothing may change, with a file that nobody may link to.
func outside(t *testing.T) (dir string, intact func()) {
	t.Helper()
	dir = t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("outside"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return dir, func() {
		t.Helper()
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 {
			t.Errorf("outside there are %v, %v", entries, err)
		}
		text, err := os.ReadFile(file)
		after, statErr := os.Stat(file)
		if string(text) != "outside" || errors.Join(err, statErr) != nil || after.Mode() != before.Mode() {
			t.Errorf("the file outside is %q, %v, %v", text, after, errors.Join(err, statErr))
		}
	}
}

// run runs a builder as a sandbox does.
func run(t *testing.T, name string, env map[string]string) (out string, ok bool) {
	t.Helper()
	out = filepath.Join(t.TempDir(), "out")
	t.Setenv("out", out)
	for name, value := range env {
		t.Setenv(name, value)
	}
	code, ran := builtin.Main([]string{"exe", name})
	if !ran {
		t.Fatalf("there is no %s", name)
	}
	return out, code == 0
}

// regular fails the test if there is anything but files, folders and links with plain modes.
func regular(t *testing.T, dir, outside string) {
	t.Helper()
	secret, err := os.Stat(filepath.Join(outside, "file"))
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(name string, entry iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if info.Mode()&^(iofs.ModePerm|iofs.ModeDir|iofs.ModeSymlink) != 0 || os.SameFile(info, secret) {
			t.Errorf("%s is %v", name, info.Mode())
		}
		return nil
	})
	if err != nil && !errors.Is(err, iofs.ErrNotExist) {
		t.Fatal(err)
	}
}

// GHSA-gr92-w2r5-qw5p: members of a channel's tarball were unpacked outside of its folder.
func TestGHSAgr92w2r5qw5pUnpackChannel(t *testing.T) {
	elsewhere, intact := outside(t)
	up := "../../../../../../../../../../../../" + elsewhere
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
	link := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	hard := func(name, to string) tar.Header { return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to} }
	folder := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755} }
	for name, tt := range map[string]struct {
		members []tar.Header
		ok      bool
	}{
		"a channel":                   {[]tar.Header{folder("c"), file("c/x"), link("c/y", "x"), hard("c/z", "c/x")}, true},
		"an absolute path":            {[]tar.Header{file(elsewhere + "/new")}, false},
		"the folder above":            {[]tar.Header{file("../new")}, false},
		"many folders above":          {[]tar.Header{folder("c"), file("c/" + up + "/new")}, false},
		"through a link":              {[]tar.Header{link("c", elsewhere), file("c/new")}, false},
		"through a relative link":     {[]tar.Header{link("c", up), file("c/new")}, false},
		"over a link":                 {[]tar.Header{folder("c"), link("c/file", elsewhere+"/file"), file("c/file")}, false},
		"a folder in place of a link": {[]tar.Header{link("c", elsewhere), folder("c"), folder("c/new")}, false},
		"a link through a link":       {[]tar.Header{link("c", elsewhere), link("c/new", "x")}, false},
		"a hard link":                 {[]tar.Header{folder("c"), hard("c/x", elsewhere+"/file")}, false},
		"a hard link above":           {[]tar.Header{folder("c"), hard("c/x", up+"/file")}, false},
		"a hard link through a link":  {[]tar.Header{folder("c"), link("c/l", elsewhere), hard("c/x", "c/l/file")}, false},
		"a device":                    {[]tar.Header{folder("c"), {Typeflag: tar.TypeChar, Name: "c/null", Devmajor: 1, Devminor: 3}}, false},
		"a pipe":                      {[]tar.Header{folder("c"), {Typeflag: tar.TypeFifo, Name: "c/pipe"}}, false},
		"set-user-id":                 {[]tar.Header{folder("c"), {Typeflag: tar.TypeReg, Name: "c/x", Mode: 0o6755}}, true},
	} {
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		for _, h := range tt.members {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		src := filepath.Join(t.TempDir(), "channel.tar")
		if err := os.WriteFile(src, archive.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		out, ok := run(t, "builtin:unpack-channel", map[string]string{"src": src, "channelName": "channel"})
		if ok != tt.ok {
			t.Errorf("%s: it worked: %v; want %v", name, ok, tt.ok)
		}
		regular(t, out, elsewhere)
		intact()
	}
	for _, name := range []string{"../x", "/x", "a/b", ".", ".."} {
		if _, ok := run(t, "builtin:unpack-channel", map[string]string{"src": "/dev/null", "channelName": name}); ok {
			t.Errorf("a channel is called %q", name)
		}
	}
	intact()
}

// CVE-2024-45593, GHSA-h4vv-h3jq-v493, where it writes to a disk: builtin:fetchurl unpacks NARs.
func TestCVE202445593Fetchurl(t *testing.T) {
	elsewhere, intact := outside(t)
	link := []string{"(", "type", "symlink", "target", elsewhere, ")"}
	file := []string{"(", "type", "regular", "contents", "new", ")"}
	entry := func(name string, node ...string) []string {
		return append(append([]string{"entry", "(", "name", name, "node"}, node...), ")")
	}
	folder := func(entries ...[]string) (all []string) {
		all = []string{"(", "type", "directory"}
		for _, e := range entries {
			all = append(all, e...)
		}
		return append(all, ")")
	}
	for name, tokens := range map[string][]string{
		"a link, and a folder": folder(entry("a", link...), entry("a", folder(entry("new", file...))...)),
		"a link, and a file":   folder(entry("a", link...), entry("a", file...)),
		"the folder above":     folder(entry("..", file...)),
		"a slash":              folder(entry("a", link...), entry("a/new", file...)),
		"an absolute path":     folder(entry(elsewhere+"/new", file...)),
	} {
		var archive bytes.Buffer
		w := wire.NewWriter(&archive)
		for _, token := range append([]string{"nix-archive-1"}, tokens...) {
			_ = w.String(token)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		src := filepath.Join(t.TempDir(), "x.nar")
		if err := os.WriteFile(src, archive.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, ok := run(t, "builtin:fetchurl", map[string]string{"url": "file://" + src, "unpack": "1"}); ok {
			t.Errorf("%s: it is unpacked to %s", name, out)
		}
		intact()
	}
}
