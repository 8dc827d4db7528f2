package cas_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/narfs/narfs/nar/cas"
)

// Who reads sees what was committed before he began, and nothing of what is committed while he reads; also beside others.
func TestSnapshots(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), cas.Options{})
	defer s.Close() //nolint:errcheck // nothing to lose
	put := func(key, value string) {
		t.Helper()
		var b cas.Batch
		b.Lazy = true
		b.Put([]byte(key), []byte(value))
		if err := s.Commit(t.Context(), &b); err != nil {
			t.Error(err)
		}
	}
	get := func(key string) string {
		t.Helper()
		v, err := s.Get([]byte(key))
		if err != nil {
			t.Error(err)
		}
		return string(v)
	}
	put("a", "0")
	put("b", "0")
	seen := ""
	err := s.Scan(nil, func(key, value []byte) error {
		seen += fmt.Sprintf("%s=%s ", key, value)
		put("b", "1")
		put("c", "1")
		seen += fmt.Sprintf("now %s ", get("b"))
		return nil
	})
	if want := "a=0 now 1 b=0 now 1 "; seen != want || err != nil {
		t.Errorf("Scan beside commits has seen %q, %v; want %q", seen, err, want)
	}

	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			key := fmt.Sprint("own ", i)
			for n := range 200 {
				put(key, fmt.Sprint(n))
				if got := get(key); got != fmt.Sprint(n) {
					t.Errorf("%s is %s after %d was committed", key, got, n)
				}
			}
		})
	}
	wg.Wait()
}

// Looking for keys, as all queries do, one after the other.
func BenchmarkGet(b *testing.B) {
	s := open(b, b.TempDir(), cas.Options{})
	defer s.Close() //nolint:errcheck // nothing to lose
	var batch cas.Batch
	for i := range 1000 {
		batch.Put(fmt.Append(nil, i), make([]byte, 200))
	}
	if err := s.Commit(b.Context(), &batch); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.Get([]byte("500")); err != nil {
			b.Fatal(err)
		}
	}
}
