package workerproto_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/narfs/narfs/daemon/workerproto"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nixwire"
	"github.com/narfs/narfs/internal/wire"
)

// answer is what a server says after its greeting: numbers, texts.
func answer(parts ...any) []byte {
	var b bytes.Buffer
	w := wire.NewWriter(&b)
	for _, part := range parts {
		switch v := part.(type) {
		case int:
			_ = w.Uint64(uint64(v))
		case string:
			_ = w.String(v)
		}
	}
	_ = w.Flush()
	return b.Bytes()
}

// Whatever a server says, its client comes to an end, without a panic.
func FuzzClient(f *testing.F) {
	const last, next, failure, path = 0x616c7473, 0x6f6c6d67, 0x63787470, "/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo"
	f.Add(uint8(38), answer(0, "narfs", 1, last, last, 1, path, last, 1, path, ""))
	f.Add(uint8(34), answer("narfs", next, "a line\n", last, failure, "Error", 0, "Error", "it fails", 0, 1, 0, "a trace", last, 0))
	f.Add(uint8(20), answer(last, 0x53545254, 1, 3, 105, "building", 2, 1, path, 0, 5, 0, 0x52534c54, 1, 101, 1, 1, "line", 0x53544f50, 1, last, 0))
	f.Add(uint8(10), answer(last, failure, "it fails", 1))
	f.Fuzz(func(t *testing.T, minor uint8, in []byte) {
		version := nixwire.Version{Major: 1, Minor: 10 + minor%29}
		said := append(answer(workerproto.ServerMagic, int(version.Number())), in...)
		c, err := workerproto.Open(bytes.NewReader(said), io.Discard, nix.DefaultStoreDir, version)
		if err != nil {
			return
		}
		p, err := nix.ParseStorePath(nix.DefaultStoreDir, path)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			for _, do := range []func() error{
				func() error { _, _, err := c.QueryPathInfo(p); return err },
				func() error { _, err := c.QueryValidDerivers(p); return err },
				func() error { _, err := c.FindRoots(); return err },
				func() error {
					_, err := c.QueryMissing([]workerproto.DerivedPath{{Path: p}})
					return err
				},
				func() error {
					_, err := c.BuildPathsWithResults(workerproto.BuildPathsRequest{Paths: []workerproto.DerivedPath{{Path: p}}})
					return err
				},
				func() error {
					_, err := c.CollectGarbage(workerproto.CollectGarbageRequest{})
					return err
				},
				func() error { _, err := c.QueryDerivationOutputMap(p); return err },
				func() error {
					return c.AddToStoreNar(workerproto.AddToStoreNarRequest{Info: nix.PathInfo{Path: p}}, func(w io.Writer) error {
						_, err := io.WriteString(w, "a NAR")
						return err
					})
				},
			} {
				var remote *workerproto.RemoteError
				if err := do(); err != nil && !errors.As(err, &remote) {
					return
				}
			}
		}
	})
}
