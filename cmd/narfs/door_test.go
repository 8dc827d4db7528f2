package main

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
)

// Of a guest's arguments those are told that lead into a store, however they do.
func TestLinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const base = "0123456789abcdfghijklmnpqrsvwxyz-name"
	for name, to := range map[string]string{
		"result": "/nix/store/" + base, "again": "result", "inside": "result/bin/hello", "home": "/home", "loop": "loop", "dir/up": "../again",
	} {
		link := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(link), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	p := &process{dir: dir}
	got := p.links([]string{
		"info", "-o", "result", "again", "inside", "home", "loop", "dir/up", "dir/up/x", "result/bin/x^out,dev", "/nix/store/" + base, filepath.Join(dir, "again"), "",
	})
	want := map[string]string{
		"result": base, "again": base, "inside": base + "/bin/hello", "dir/up": base, "dir/up/x": base + "/x", "result/bin/x": base + "/bin/x",
		filepath.Join(dir, "again"): base,
	}
	if !maps.Equal(got, want) {
		t.Errorf("links are %q; want %q", got, want)
	}
}

// An owner who is somebody else cannot have links made that nobody asked for.
func TestLinkPlan(t *testing.T) {
	t.Parallel()
	const path = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-name"
	for _, test := range []struct {
		plan linkPlan
		ok   bool
	}{
		{linkPlan{"/nix/store", [][2]string{{"", path}, {"-2-dev", path}}}, true},
		{linkPlan{"/nix/store", [][2]string{{"/../x", path}}}, false},
		{linkPlan{"/nix/store", [][2]string{{"", "/etc/passwd"}}}, false},
		{linkPlan{"/nix/store", [][2]string{{"", path + "/../../../etc/passwd"}}}, false},
		{linkPlan{"store", [][2]string{{"", path}}}, false},
	} {
		if err := test.plan.check(); (err == nil) != test.ok {
			t.Errorf("%q: %v", test.plan, err)
		}
	}
}
