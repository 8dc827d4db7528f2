package session_test

import (
	"fmt"
	"testing"

	"github.com/narfs/narfs/daemon/session"
	"github.com/narfs/narfs/internal/nix"
)

// Small paths, one after the other, each sent when the one before was acknowledged, as Nix does.
func BenchmarkAddToStoreNar(b *testing.B) {
	s := open(b)
	m := manager(b, s, session.Options{})
	objects := make([]object, b.N)
	for i := range objects {
		if i == 0 {
			objects[i] = someObject(b, "p0")
		} else {
			objects[i] = someObject(b, fmt.Sprint("p", i), objects[i-1].Path)
		}
	}
	c := connect(b, m, trusted, session.ServeOptions{Write: true})
	if b.N <= 1<<15 {
		if _, err := c.QueryValidPaths(paths(objects...), false, false); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	for _, o := range objects {
		if err := c.add(o); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	if err := c.end(); err != nil {
		b.Fatal(err)
	}
}

// Which of 20,000 paths are valid, of which a tenth is.
func BenchmarkQueryValidPaths(b *testing.B) {
	s := open(b)
	m := manager(b, s, session.Options{})
	var asked []nix.StorePath
	c := connect(b, m, trusted, session.ServeOptions{Write: true})
	for i := range 20_000 {
		o := someObject(b, fmt.Sprint("p", i))
		asked = append(asked, o.Path)
		if i%10 == 0 {
			if err := c.add(o); err != nil {
				b.Fatal(err)
			}
		}
	}
	for b.Loop() {
		if got, err := c.QueryValidPaths(asked, false, false); err != nil || len(got) != 2000 {
			b.Fatal(len(got), err)
		}
	}
	if err := c.end(); err != nil {
		b.Fatal(err)
	}
}
