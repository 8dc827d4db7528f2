package fs_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/narfs/narfs/casefold"
	"github.com/narfs/narfs/fs"
	"github.com/narfs/narfs/fs/fstest"
)

func TestViews(t *testing.T) {
	m := fstest.NewMemory()
	m.Add(hello, fstest.New(fstest.Dir(map[string]fstest.Node{
		"net/xt_CONNMARK.h": fstest.Text("upper"),
		"net/xt_connmark.h": fstest.Text("lower"),
		"net/other":         fstest.Text("other"),
		"plain/a":           fstest.Text("a"),
		"Dir/x":             fstest.Text("X"),
		"dir/x":             fstest.Text("x"),
	})))
	hacked := "xt_connmark.h" + casefold.Suffix + "1"
	for _, tc := range []struct {
		name  string
		o     fs.Options
		list  []string
		finds map[string]string // path to content, "" for absent
	}{
		{
			"exact",
			fs.Options{},
			[]string{".", "..", "other", "xt_CONNMARK.h", "xt_connmark.h"},
			map[string]string{
				"net/xt_CONNMARK.h": "upper", "net/xt_connmark.h": "lower", "net/" + hacked: "", "net/XT_CONNMARK.H": "", "NET/other": "",
				"Dir/x": "X", "dir/x": "x",
			},
		},
		{
			"hacked",
			fs.Options{CaseHack: true},
			[]string{".", "..", "other", "xt_CONNMARK.h", hacked},
			map[string]string{
				"net/xt_CONNMARK.h": "upper", "net/xt_connmark.h": "lower", "net/" + hacked: "lower", "net/XT_CONNMARK.H": "",
				"Dir/x": "X", "dir/x": "x", "dir" + casefold.Suffix + "1/x": "x",
			},
		},
		{
			"hacked and folded",
			fs.Options{CaseHack: true, CaseInsensitive: true},
			[]string{".", "..", "other", "xt_CONNMARK.h", hacked},
			map[string]string{
				"net/xt_CONNMARK.h": "upper", "net/xt_connmark.h": "lower", "net/" + hacked: "lower", "net/" + strings.ToUpper(hacked): "lower",
				"NET/OTHER": "other", "net/absent": "", "net/XT_connMARK.h": "upper",
			},
		},
		{
			"folded",
			fs.Options{CaseInsensitive: true},
			[]string{".", "..", "other", "xt_CONNMARK.h", "xt_connmark.h"},
			map[string]string{"net/xt_CONNMARK.h": "upper", "net/xt_connmark.h": "lower", "Net/Other": "other", "pLain/A": "a"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, _ := newServer(t, m, tc.o, allFlags)
			if diff := cmp.Diff(tc.list, names(t, s, walk(t, s, hello+"/net"), 4096, false)); diff != "" {
				t.Errorf("list (-want +got):\n%s", diff)
			}
			for path, want := range tc.finds {
				node := walk(t, s, hello)
				for name := range strings.SplitSeq(path, "/") {
					out, st := lookup(s, node, name)
					if node = out.NodeId; node == 0 || st != fuse.OK {
						break
					}
				}
				switch {
				case node == 0 && want != "":
					t.Errorf("%s is absent", path)
				case node != 0:
					if got, _ := readAll(s, node, 4096); string(got) != want {
						t.Errorf("%s = %q; want %q", path, got, want)
					}
				}
			}
		})
	}
}

// In the root, another spelling of a store path is found too, but not remembered for long: no notify would end that.
func TestFoldedRoot(t *testing.T) {
	m := sample()
	s, _ := newServer(t, m, fs.Options{CaseInsensitive: true}, allFlags)
	upper := strings.ToUpper(hello)
	out, st := lookup(s, 1, upper)
	if want := walk(t, s, hello); out.NodeId != want || st != fuse.OK || out.EntryValid > 1 {
		t.Errorf("Lookup(%s) = %d, %v for %d s; want %d for a second", upper, out.NodeId, st, out.EntryValid, want)
	}
	m.Remove(hello)
	s.Changed(hello)
	if out, st := lookup(s, 1, upper); out.NodeId != 0 || st != fuse.OK || out.EntryValid > 1 {
		t.Errorf("Lookup(%s) after its removal = %d, %v for %d s; want 0 for a second", upper, out.NodeId, st, out.EntryValid)
	}
}
