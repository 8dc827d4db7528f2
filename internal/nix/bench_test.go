package nix_test

import (
	"testing"

	"github.com/narfs/narfs/internal/nix"
)

func BenchmarkParseBaseName(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := nix.ParseBaseName("1grkls2fz9svc2q7sin18a00qazpyf64-python3.11-lib-1.0"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHashString(b *testing.B) {
	h := mustHash(b, "sha256-I79ABM/MuMklSzsTwQ5m1xiPdq97No4hi6vpgVmYnw8=")
	b.ReportAllocs()
	for b.Loop() {
		_ = h.String()
	}
}

func BenchmarkParseHash(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := nix.ParseHash("sha256:03wzk1cq3sdbichqwdkvmxv8y66pcq7c24rv9cjwkf6crw241gr3", 0); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseNarInfo(b *testing.B) {
	text := nix28(b)["879df4q24461rilk7847r3j220msbzl1.narinfo"]
	b.ReportAllocs()
	for b.Loop() {
		if _, err := nix.ParseNarInfo(nix.DefaultStoreDir, text); err != nil {
			b.Fatal(err)
		}
	}
}
