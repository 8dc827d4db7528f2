package cas_test

import (
	"testing"

	"github.com/narfs/narfs/nar/cas"
)

// No bytes that a damaged store could hold make the decoders panic or take much memory.
func FuzzFrame(f *testing.F) {
	m := [8]byte{1, 2, 3, 4, 5, 6, 7, 8}
	f.Add(cas.AppendMetaFrame(m, []byte("ukey"), []byte("value")))
	f.Add(cas.AppendMetaFrame(m, []byte("ukey"), nil))
	f.Add(cas.AppendDataFrame(m, []byte("some bytes of a file")))
	f.Fuzz(func(_ *testing.T, b []byte) { _ = cas.DecodeFrame(b, m) })
}

func FuzzObjectRecord(f *testing.F) {
	f.Add([]byte("\x01\x78\x01\x05\x04\x00abcd\x00\x00"))
	rec := append([]byte("\x01\x78\x01\x05\x90\x03\x02\x01"), make([]byte, 38)...)
	f.Add(append(rec, "\x00\x00"...))
	f.Fuzz(func(_ *testing.T, b []byte) { _ = cas.ParseObjectRecord(b) })
}
