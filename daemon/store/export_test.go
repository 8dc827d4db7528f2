package store

import (
	"bytes"
	"context"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/wire"
	"github.com/narfs/narfs/nar"
)

// Find returns the offsets of needle in what pieces are together.
func Find(needle []byte, pieces [][]byte) []int64 {
	f := &finder{needle: needle}
	for _, p := range pieces {
		f.write(p)
	}
	return f.found
}

// ReadExport takes a stream apart and skips the contents, of at most 1,000 entries each.
func ReadExport(stream []byte, path func(nix.PathInfo) error) error {
	src := wire.NewReader(bytes.NewReader(stream))
	skip := func() error { return skipNAR(context.Background(), src, nar.Limits{Entries: 1000, NameBytes: 1 << 20}) }
	return readExport(src, nix.DefaultStoreDir, skip, path)
}
