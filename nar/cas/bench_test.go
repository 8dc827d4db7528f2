package cas_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/narfs/narfs/nar/cas"
)

// BenchmarkNARs imports the NARs of the folder that NARFS_BENCH_NARS names: all new, again,
// and gives them back. scripts/bench compares with others.
func BenchmarkNARs(b *testing.B) {
	names, _ := filepath.Glob(filepath.Join(os.Getenv("NARFS_BENCH_NARS"), "*.nar"))
	if len(names) == 0 || os.Getenv("NARFS_BENCH_NARS") == "" {
		b.Skip("NARFS_BENCH_NARS names no folder with .nar files")
	}
	for _, how := range []struct {
		name string
		c    cas.Compression
	}{{"fast", cas.CompressFast}, {"none", cas.CompressNone}, {"best", cas.CompressBest}} {
		b.Run(how.name, func(b *testing.B) {
			for range b.N {
				s := open(b, b.TempDir(), cas.Options{})
				var raw int64
				var objects []*cas.Object
				for _, pass := range []string{"new", "known"} {
					begin := time.Now()
					raw, objects = 0, nil
					for _, name := range names {
						f, err := os.Open(name)
						if err != nil {
							b.Fatal(err)
						}
						st, err := s.Ingest(b.Context(), f, cas.IngestOptions{Compression: how.c})
						if err := f.Close(); err != nil {
							b.Fatal(err)
						}
						if err != nil {
							b.Fatal(err)
						}
						raw += st.Info().NarSize
						var batch cas.Batch
						batch.PutObject(st)
						if err := s.Commit(b.Context(), &batch); err != nil {
							b.Fatal(err)
						}
						o, err := s.Object(st.Info().NarHash)
						if err != nil {
							b.Fatal(err)
						}
						objects = append(objects, o)
					}
					b.ReportMetric(float64(raw)/1e6/time.Since(begin).Seconds(), pass+"-MB/s")
				}
				begin := time.Now()
				for _, o := range objects {
					if err := o.WriteNAR(b.Context(), io.Discard); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(raw)/1e6/time.Since(begin).Seconds(), "dump-MB/s")
				st, err := s.Stats()
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(raw)/1e6, "raw-MB")
				b.ReportMetric(float64(st.PackBytes)/1e6, "packs-MB")
				b.ReportMetric(float64(st.Index)/1e6, "index-MB")
				b.ReportMetric(float64(st.Chunks), "chunks")
				closeStore(b, s)
			}
		})
	}
}

// BenchmarkSmall imports and commits a derivation-sized NAR after another.
func BenchmarkSmall(b *testing.B) {
	s := open(b, b.TempDir(), cas.Options{})
	a := makeNAR(b, 1, 1)
	i := 0
	for b.Loop() {
		i++
		st, err := s.Ingest(b.Context(), bytes.NewReader(a.nar), cas.IngestOptions{})
		if err != nil {
			b.Fatal(err)
		}
		var batch cas.Batch
		batch.PutObject(st)
		batch.Put([]byte{byte(i), byte(i >> 8), byte(i >> 16)}, []byte("x"))
		if err := s.Commit(b.Context(), &batch); err != nil {
			b.Fatal(err)
		}
	}
}
