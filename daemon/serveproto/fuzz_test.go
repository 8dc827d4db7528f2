package serveproto_test

import (
	"bytes"
	"crypto/sha256"
	"io"
	"testing"

	"github.com/narfs/narfs/daemon/serveproto"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/wire"
)

func sha256Sum(b []byte) nix.Hash { return nix.NewSHA256(sha256.Sum256(b)) }

// Whatever a client sends, the server reads it, or fails, and takes no more memory than a few times what came.
func FuzzRequests(f *testing.F) {
	f.Add(requests(f))
	hello := number(serveproto.ClientMagic) + number(2<<8|3)
	f.Add([]byte(hello + number(6) + number(0) + number(1) + number(2) + number(3) + number(4) + number(5)))
	f.Add([]byte(hello + number(8)))
	f.Fuzz(func(_ *testing.T, in []byte) {
		taken := int64(0)
		_, _ = serve(bytes.NewReader(in), func(n int64) error {
			if taken += n; taken > int64(20*len(in)+4096) {
				panic("the budget is asked for more than came")
			}
			return nil
		})
	})
}

// Whatever a server answers.
func FuzzAnswers(f *testing.F) {
	greeting := number(serveproto.ServerMagic) + number(2<<8|7)
	f.Add([]byte(greeting + number(0) + number(0) + number(0)))
	f.Add([]byte(greeting + number(1<<40)))
	f.Add([]byte(number(serveproto.ServerMagic) + number(2<<8|3)))
	f.Fuzz(func(_ *testing.T, in []byte) {
		c, err := serveproto.Open(bytes.NewReader(in), io.Discard, dir)
		if err != nil {
			return
		}
		p := nix.StorePath{}
		for err == nil {
			_, err = c.QueryValidPaths(nil, false, false)
			if err == nil {
				_, err = c.QueryPathInfos([]nix.StorePath{p, p})
			}
			if err == nil {
				_, err = c.QueryClosure(nil)
			}
			if err == nil {
				err = c.DumpStorePath(p, func(r *wire.Reader) error { return r.Discard(3) })
			}
			if err == nil {
				err = c.AddToStoreNar(nix.PathInfo{}, func(io.Writer) error { return nil }, nil)
			}
			if err == nil {
				err = c.Finish() // until then its answers are read elsewhere
			}
			if err == nil {
				_, err = serveproto.ReadBuildResult(c.Conn)
			}
		}
		_ = c.Finish()
	})
}
