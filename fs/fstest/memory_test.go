package fstest_test

import (
	"testing"

	"github.com/narfs/narfs/fs/fstest"
)

func TestMemory(t *testing.T) {
	m := fstest.NewMemory()
	m.FrameSize = 10_000
	objects := map[string]*fstest.Object{
		"00000000000000000000000000000001-dir": fstest.New(fstest.Dir(map[string]fstest.Node{
			"a/b/big": {Data: fstest.Bytes(123_456, 1)}, "a/empty": {}, "l": fstest.Link("a"), "d": fstest.Empty(), "a/x": fstest.Script("x"),
		})),
		"00000000000000000000000000000002-file": fstest.New(fstest.Text("file")),
		"00000000000000000000000000000003-link": fstest.New(fstest.Link("file")),
	}
	var paths []string
	for path, o := range objects {
		m.Add(path, o)
		paths = append(paths, path)
	}
	fstest.TestSource(t, m, paths, func(path, file string) ([]byte, error) {
		content, _, err := objects[path].Path(file)
		return content, err
	})
	if n := m.Spans.Load(); n != 0 {
		t.Errorf("%d spans were not released", n)
	}
}
