package nar_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/narfs/narfs/nar"
)

// manyFiles describes n small files, ten folders of them.
func manyFiles(n int, size int64) []nar.Header {
	hs := []nar.Header{dir(1, "")}
	for d := range 10 {
		hs = append(hs, dir(2, fmt.Sprintf("folder-%d", d)))
		for i := range n / 10 {
			hs = append(hs, file(3, fmt.Sprintf("file-%06d.h", i), size))
		}
	}
	return hs
}

func BenchmarkReaderEntries(b *testing.B) {
	hs := manyFiles(100_000, 0)
	in := write(b, hs)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		r := nar.NewReader(bytes.NewReader(in), nar.Limits{})
		for {
			if _, err := r.Next(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(len(hs))*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkReadTree(b *testing.B) {
	hs := manyFiles(100_000, 100)
	in := write(b, hs)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := nar.ReadTree(bytes.NewReader(in), nar.Limits{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(hs))*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkReaderLargeFile(b *testing.B) {
	in := write(b, []nar.Header{file(1, "", 64<<20)})
	buf := make([]byte, 256<<10)
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		r := nar.NewReader(bytes.NewReader(in), nar.Limits{})
		if _, err := r.Next(); err != nil {
			b.Fatal(err)
		}
		for {
			if _, err := r.Read(buf); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkWriterEntries(b *testing.B) {
	hs := manyFiles(100_000, 0)
	b.SetBytes(int64(len(write(b, hs))))
	b.ReportAllocs()
	for b.Loop() {
		w := nar.NewWriter(io.Discard)
		for _, h := range hs {
			if err := w.WriteHeader(h); err != nil {
				b.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(hs))*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkTreeAll(b *testing.B) {
	tree := build(b, manyFiles(100_000, 0))
	for b.Loop() {
		n := 0
		for range tree.All() {
			n++
		}
		if n != tree.Len() {
			b.Fatal(n)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(tree.Len()), "ns/node")
}
