package casefold_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/narfs/narfs/casefold"
)

// benchNames returns n sorted names as they are in a typical directory, one in sixteen beyond ASCII.
func benchNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("libExample-%06d.so.%d", i, i%7)
		if i%16 == 15 {
			names[i] = fmt.Sprintf("Élan-vital-%06d.txt", i)
		}
	}
	slices.Sort(names)
	return names
}

func BenchmarkKey(b *testing.B) {
	for _, bb := range []struct{ what, name string }{{"ascii", "LibExample-000123.so.4"}, {"unicode", "Élan-vital-straße.txt"}} {
		for _, rule := range []casefold.Rule{casefold.ASCII, casefold.HFS, casefold.APFS} {
			b.Run(bb.what+"/"+rule.String(), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					rule.Key(bb.name)
				}
			})
		}
	}
}

// BenchmarkNeeded tells the time for one name.
func BenchmarkNeeded(b *testing.B) {
	for _, n := range []int{4, 32, 512, 50_000} {
		names := benchNames(n)
		for _, rule := range []casefold.Rule{casefold.ASCII, casefold.APFS} {
			b.Run(fmt.Sprintf("%d/%v", n, rule), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					casefold.Needed(rule, n, func(i int) string { return names[i] })
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/name")
			})
		}
	}
}

// BenchmarkHack has one class of two in a directory.
func BenchmarkHack(b *testing.B) {
	for _, n := range []int{32, 50_000} {
		names := append(benchNames(n), "readme")
		names = append([]string{"README"}, names...)
		slices.Sort(names)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				casefold.Hack(casefold.ASCII, names)
			}
		})
	}
}

func BenchmarkLookup(b *testing.B) {
	names := benchNames(50_000)
	d := casefold.NewDir(casefold.APFS, casefold.DirOptions{Hack: true, Fold: true}, len(names), func(i int) string { return names[i] })
	for what, name := range map[string]string{"exact": names[12345], "folded": "LIBEXAMPLE-012345.SO.4", "absent": "nothing"} {
		b.Run(what, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				d.Lookup(name)
			}
		})
	}
}
