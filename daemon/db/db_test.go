package db_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/narfs/narfs/daemon/db"
	"github.com/narfs/narfs/internal/nix"
)

var errAbsent = errors.New("absent")

// kv is a key-value space in memory.
type kv map[string][]byte

func (m kv) Get(key []byte) ([]byte, error) {
	v, ok := m[string(key)]
	if !ok {
		return nil, errAbsent
	}
	return bytes.Clone(v), nil
}

func (m kv) Scan(prefix []byte, fn func(key, value []byte) error) error {
	var keys []string
	for k := range m {
		if strings.HasPrefix(k, string(prefix)) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		if err := fn([]byte(k), m[k]); err != nil {
			return err
		}
	}
	return nil
}

func (m kv) Put(key, value []byte) { m[string(key)] = bytes.Clone(value) }

func (m kv) Delete(key []byte) { delete(m, string(key)) }

// path makes a path of a number.
func path(tb testing.TB, n int, name string) nix.StorePath {
	tb.Helper()
	sum := sha256.Sum256(fmt.Append(nil, n))
	p, err := nix.ParseBaseName(nix.EncodeNix32(sum[:20]) + "-" + name)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// exact compares the values of package nix, which are comparable.
var exact = cmp.Options{
	cmp.Comparer(func(a, b nix.StorePath) bool { return a == b }),
	cmp.Comparer(func(a, b nix.Hash) bool { return a == b }),
}

func record(tb testing.TB, n int, refs ...nix.StorePath) db.Record {
	tb.Helper()
	return db.Record{Slot: uint32(n), Info: nix.PathInfo{
		Path: path(tb, n, "x"), NarHash: nix.NewSHA256(sha256.Sum256([]byte{byte(n)})), NarSize: uint64(n), References: nix.SortPaths(refs),
	}}
}

func mustPut(tb testing.TB, m kv, r db.Record) {
	tb.Helper()
	if err := db.Put(m, r, db.Top{Type: 1}); err != nil {
		tb.Fatal(err)
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		p := rapid.Custom(func(rt *rapid.T) nix.StorePath {
			return path(t, rapid.Int().Draw(rt, "n"), rapid.StringMatching(`[a-z0-9+_?=][a-zA-Z0-9+._?=-]{0,40}`).Draw(rt, "name"))
		})
		want := db.Record{Slot: rapid.Uint32Min(1).Draw(rt, "slot"), Info: nix.PathInfo{
			Path:             p.Draw(rt, "path"),
			NarHash:          nix.NewSHA256(sha256.Sum256(rapid.SliceOfN(rapid.Byte(), 1, 4).Draw(rt, "hash"))),
			NarSize:          rapid.Uint64().Draw(rt, "size"),
			RegistrationTime: rapid.Int64().Draw(rt, "time"),
			Ultimate:         rapid.Bool().Draw(rt, "ultimate"),
		}}
		if refs := rapid.SliceOfN(p, 0, 5).Draw(rt, "refs"); len(refs) > 0 {
			want.Info.References = nix.SortPaths(refs)
		}
		if rapid.Bool().Draw(rt, "has deriver") {
			want.Info.Deriver = p.Draw(rt, "deriver")
		}
		for range rapid.IntRange(0, 3).Draw(rt, "sigs") {
			want.Info.AddSignatures(nix.Signature{KeyName: rapid.StringMatching(`[a-z.-]{1,20}`).Draw(rt, "key"), Data: [64]byte{1, 2, 3}})
		}
		if rapid.Bool().Draw(rt, "has ca") {
			want.Info.CA = nix.ContentAddress{Method: nix.MethodNAR, Hash: want.Info.NarHash}
		}
		top := db.Top{
			Type: uint8(rapid.IntRange(1, 3).Draw(rt, "type")), Executable: rapid.Bool().Draw(rt, "x"),
			Size: rapid.Int64Min(0).Draw(rt, "top size"), Subdirs: rapid.Int64Min(0).Draw(rt, "subdirs"),
		}
		m := kv{}
		d := db.New(m, errAbsent)
		if err := db.Put(m, want, top); err != nil {
			rt.Fatal(err)
		}
		got, err := d.Get(want.Info.Path)
		if err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(want, got, exact); diff != "" {
			rt.Errorf("Get, -want +got:\n%s", diff)
		}
		gotPath, gotTop, err := d.Slot(want.Slot)
		if err != nil || gotPath != want.Info.Path || gotTop != top {
			rt.Errorf("Slot(%d) = %s, %+v, %v; want %s, %+v", want.Slot, gotPath, gotTop, err, want.Info.Path, top)
		}
		if err := db.Delete(m, got); err != nil || len(m) != 0 {
			rt.Errorf("after Delete there are %d records (%v)", len(m), err)
		}
	})
}

// A record with more references than fit one value is kept in parts.
func TestParts(t *testing.T) {
	t.Parallel()
	m := kv{}
	d := db.New(m, errAbsent)
	var refs []nix.StorePath
	for i := range 20_000 {
		refs = append(refs, path(t, i, "a-reference-of-some-length"))
	}
	want := record(t, 1, refs...)
	mustPut(t, m, want)
	parts := 0
	for k := range m {
		if k[0] == 'q' {
			parts++
		}
	}
	if parts != 4 {
		t.Errorf("%d parts; want 4", parts)
	}
	got, err := d.Get(want.Info.Path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, exact); diff != "" {
		t.Errorf("Get, -want +got:\n%s", diff)
	}
	for range 280_000 {
		refs = append(refs, refs[0])
	}
	want.Info.References = refs
	if err := db.Put(kv{}, want, db.Top{}); err == nil {
		t.Error("Put with 300,000 references succeeded")
	}
	if err := db.Delete(m, got); err != nil || len(m) != 0 {
		t.Errorf("after Delete there are %d records (%v)", len(m), err)
	}
}

func TestQueries(t *testing.T) {
	t.Parallel()
	m := kv{}
	d := db.New(m, errAbsent)
	if next, err := d.Slots(); next != 1 || err != nil {
		t.Errorf("Slots of an empty space = %d, %v; want 1", next, err)
	}
	db.PutSlots(m, 77)
	if next, err := d.Slots(); next != 77 || err != nil {
		t.Errorf("Slots = %d, %v; want 77", next, err)
	}
	if _, err := d.Meta("x"); !errors.Is(err, db.ErrNotFound) {
		t.Errorf("Meta(absent) = %v; want ErrNotFound", err)
	}
	db.PutMeta(m, "x", "y")
	if v, err := d.Meta("x"); v != "y" || err != nil {
		t.Errorf("Meta = %q, %v; want y", v, err)
	}

	a := record(t, 1)
	b := record(t, 2, a.Info.Path)
	drv := path(t, 9, "b.drv")
	b.Info.Deriver = drv
	c := record(t, 3, a.Info.Path, b.Info.Path)
	c.Info.References = nix.SortPaths(append(c.Info.References, c.Info.Path))
	c.Info.NarHash = b.Info.NarHash
	for _, r := range []db.Record{a, b, c} {
		mustPut(t, m, r)
	}
	hashB, _ := b.Info.NarHash.SHA256()
	paths := func(records ...db.Record) []nix.StorePath {
		var out []nix.StorePath
		for _, r := range records {
			out = append(out, r.Info.Path)
		}
		return nix.SortPaths(out)
	}
	for _, tt := range []struct {
		name string
		call func() ([]nix.StorePath, error)
		want []nix.StorePath
	}{
		{"Referrers(a)", func() ([]nix.StorePath, error) { return d.Referrers(a.Info.Path) }, paths(b, c)},
		{"Referrers(c)", func() ([]nix.StorePath, error) { return d.Referrers(c.Info.Path) }, nil},
		{"Derived", func() ([]nix.StorePath, error) { return d.Derived(drv) }, paths(b)},
		{"ByNarHash", func() ([]nix.StorePath, error) { return d.ByNarHash(hashB) }, paths(b, c)},
		{"ByNarHash(absent)", func() ([]nix.StorePath, error) { return d.ByNarHash([32]byte{}) }, nil},
	} {
		got, err := tt.call()
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if diff := cmp.Diff(tt.want, got, exact); diff != "" {
			t.Errorf("%s, -want +got:\n%s", tt.name, diff)
		}
	}
	if got, err := d.ByHashPart(b.Info.Path.HashPart()); got != b.Info.Path || err != nil {
		t.Errorf("ByHashPart = %s, %v; want %s", got, err, b.Info.Path)
	}
	if _, err := d.ByHashPart(strings.Repeat("0", 32)); !errors.Is(err, db.ErrNotFound) {
		t.Errorf("ByHashPart(absent) = %v; want ErrNotFound", err)
	}
	if problems := check(t, d); len(problems) > 0 {
		t.Errorf("Check found %v", problems)
	}
}

func check(tb testing.TB, d *db.DB) (found []db.Problem) {
	tb.Helper()
	err := d.Check(func(p db.Problem) error {
		still, err := d.Recheck(p)
		if err != nil || still == nil || still.Err.Error() != p.Err.Error() {
			tb.Errorf("Recheck of %v = %v, %v; want the same", p, still, err)
		}
		found = append(found, p)
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return found
}

// Whatever record is lost, spoiled or added, Check finds it, and Fix mends what follows from infos.
func TestCheck(t *testing.T) {
	t.Parallel()
	good := kv{}
	a := record(t, 1)
	b := record(t, 2, a.Info.Path)
	b.Info.Deriver = path(t, 9, "b.drv")
	mustPut(t, good, a)
	mustPut(t, good, b)
	stray := record(t, 3, a.Info.Path)
	stray.Info.Deriver = path(t, 9, "b.drv")
	strays := kv{}
	mustPut(t, strays, stray)

	try := func(name string, spoil func(kv)) {
		t.Helper()
		m := kv{}
		for k, v := range good {
			m[k] = bytes.Clone(v)
		}
		spoil(m)
		d := db.New(m, errAbsent)
		found := check(t, d)
		if len(found) == 0 {
			t.Errorf("%s: Check found nothing", name)
		}
		hopeless := false
		for _, p := range found {
			if p.Fix != nil {
				p.Fix(m)
			}
			hopeless = hopeless || p.Unreadable || p.Dangling
		}
		for _, p := range found {
			if p.Slot {
				r, err := d.Get(p.Path)
				if err != nil {
					t.Fatal(err)
				}
				db.PutSlot(m, r, db.Top{Type: 1})
			}
		}
		if found := check(t, d); len(found) > 0 && !hopeless {
			t.Errorf("%s: after mending Check found %v", name, found)
		}
	}
	for k := range good {
		try(fmt.Sprintf("without %q", k), func(m kv) { delete(m, k) })
		for i := range good[k] {
			try(fmt.Sprintf("%q with byte %d changed", k, i), func(m kv) { m[k][i] ^= 4 })
		}
		if k[0] != 'p' {
			try(fmt.Sprintf("%q with another key", k), func(m kv) { m[k+"x"], m[k] = m[k], nil; delete(m, k) })
		}
	}
	for k, v := range strays {
		try(fmt.Sprintf("with %q", k), func(m kv) { m[k] = v })
	}
	try("with a part too many", func(m kv) { m["q"+a.Info.Path.BaseName()+"\x00\x00\x01"] = []byte("part") })
}

func FuzzParse(f *testing.F) {
	m := kv{}
	r := record(f, 1, path(f, 2, "y"))
	r.Info.Deriver = path(f, 9, "b.drv")
	r.Info.CA = nix.ContentAddress{Method: nix.MethodFlat, Hash: r.Info.NarHash}
	r.Info.AddSignatures(nix.Signature{KeyName: "k"})
	mustPut(f, m, r)
	for k, v := range m {
		if k[0] == 'p' || k[0] == 's' {
			f.Add(v[:len(v)-4])
		}
	}
	key := []byte("p" + r.Info.Path.BaseName())
	f.Fuzz(func(t *testing.T, payload []byte) {
		m := kv{string(key): db.Seal(key, bytes.Clone(payload))}
		got, err := db.New(m, errAbsent).Get(r.Info.Path)
		if err != nil {
			if !errors.Is(err, db.ErrCorrupt) && !errors.Is(err, db.ErrNotFound) {
				t.Fatalf("Get = %v; want ErrCorrupt", err)
			}
			return
		}
		if err := db.Put(m, got, db.Top{}); err != nil {
			t.Fatal(err)
		}
		again, err := db.New(m, errAbsent).Get(r.Info.Path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(got, again, exact); diff != "" {
			t.Errorf("written and read again:\n%s", diff)
		}
		skey := []byte("s\x00\x00\x00\x01")
		_, _, err = db.New(kv{string(skey): db.Seal(skey, bytes.Clone(payload))}, errAbsent).Slot(1)
		if err != nil && !errors.Is(err, db.ErrCorrupt) {
			t.Fatalf("Slot = %v; want ErrCorrupt", err)
		}
	})
}

// changing is a space in which a record changes between the reading of its parts.
type changing struct {
	kv

	change func()
}

func (c *changing) Get(key []byte) ([]byte, error) {
	v, err := c.kv.Get(key)
	if key[0] == 'p' && c.change != nil {
		c.change()
		c.change = nil
	}
	return v, err
}

func TestChangingParts(t *testing.T) {
	t.Parallel()
	var refs []nix.StorePath
	for i := range 8000 {
		refs = append(refs, path(t, i, "a-reference-of-some-length"))
	}
	want := record(t, 1, refs...)
	m := kv{}
	mustPut(t, m, want)
	c := &changing{kv: m, change: func() {
		want.Info.AddSignatures(nix.Signature{KeyName: "k"})
		if err := db.Replace(m, want); err != nil {
			t.Error(err)
		}
	}}
	got, err := db.New(c, errAbsent).Get(want.Info.Path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, exact); diff != "" {
		t.Errorf("Get, -want +got:\n%s", diff)
	}
}
