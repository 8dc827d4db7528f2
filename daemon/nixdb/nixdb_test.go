package nixdb_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/narfs/narfs/daemon/nixdb"
	"github.com/narfs/narfs/internal/nix"
)

// nixStore is a database with the tables that this package reads.
type nixStore struct {
	*sql.DB

	root  string
	place nixdb.Place
}

func newStore(tb testing.TB, journal string) *nixStore {
	tb.Helper()
	root := tb.TempDir()
	place := nixdb.Place{StoreDir: filepath.Join(root, "nix", "store"), StateDir: filepath.Join(root, "nix", "var", "nix")}
	for _, dir := range []string{place.StoreDir, filepath.Join(place.StateDir, "db")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(place.StateDir, "db", "schema"), []byte("10"), 0o600); err != nil {
		tb.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(place.StateDir, "db", "db.sqlite")+"?_pragma=journal_mode("+journal+")&_pragma=synchronous(off)")
	if err != nil {
		tb.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	tb.Cleanup(func() { _ = db.Close() })
	s := &nixStore{db, root, place}
	s.exec(tb, "CREATE TABLE ValidPaths (id INTEGER PRIMARY KEY, path TEXT UNIQUE, hash TEXT, registrationTime INTEGER, "+
		"deriver TEXT, narSize INTEGER, ultimate INTEGER, sigs TEXT, ca TEXT)")
	s.exec(tb, "CREATE TABLE Refs (referrer INTEGER, reference INTEGER, PRIMARY KEY (referrer, reference))")
	return s
}

func (s *nixStore) exec(tb testing.TB, text string, args ...any) {
	tb.Helper()
	if _, err := s.ExecContext(tb.Context(), text, args...); err != nil {
		tb.Fatal(err)
	}
}

// add adds a path with a number, which is its id, and references.
func (s *nixStore) add(tb testing.TB, i int, refs ...int) {
	tb.Helper()
	s.exec(tb, "INSERT INTO ValidPaths (id, path, hash, registrationTime) VALUES (?, ?, ?, ?)", i, full(i), hash(i), i)
	for _, ref := range refs {
		s.exec(tb, "INSERT INTO Refs VALUES (?, ?)", i, ref)
	}
}

func base(i int) string { return fmt.Sprintf("%032d-p", i) }
func full(i int) string { return "/nix/store/" + base(i) }
func hash(i int) string { return fmt.Sprintf("sha256:%064x", i) }

func (s *nixStore) open(tb testing.TB) *nixdb.DB {
	tb.Helper()
	db, err := nixdb.Open(tb.Context(), s.place, tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	})
	return db
}

// paths returns the names of what Closure returns.
func paths(tb testing.TB, db *nixdb.DB, chosen []nix.StorePath) (names []string) {
	tb.Helper()
	rows, err := db.Rows(tb.Context(), func(name string, err error) { tb.Errorf("%s: %v", name, err) })
	if err != nil {
		tb.Fatal(err)
	}
	if rows, err = db.Closure(tb.Context(), rows, chosen); err != nil {
		tb.Fatal(err)
	}
	for _, r := range rows {
		names = append(names, r.Path.BaseName())
	}
	return names
}

func parse[T any](tb testing.TB) func(T, error) T {
	tb.Helper()
	return func(v T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

// files describes all files below a folder: contents, modes and times.
func files(tb testing.TB, root string) map[string]string {
	tb.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(name string, entry iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		text := fmt.Sprintln(info.Mode(), info.ModTime().UnixNano())
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			text += fmt.Sprintf("%x", sha256.Sum256(b))
		}
		all[name] = text
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return all
}

func TestFind(t *testing.T) {
	t.Parallel()
	s := newStore(t, "wal")
	for _, dir := range []string{s.root, filepath.Join(s.root, "nix"), s.place.StoreDir} {
		if got, err := nixdb.Find(dir); err != nil || got != s.place {
			t.Errorf("Find(%s) = %v, %v; want %v", dir, got, err, s.place)
		}
	}
	for place, want := range map[nixdb.Place]string{
		s.place:                          s.root,
		{"/nix/store", "/nix/var/nix"}:   "/",
		{"/a/nix/store", "/nix/var/nix"}: "",
		{"/a/store", "/a/var/nix"}:       "",
	} {
		if got := place.Root(); got != want {
			t.Errorf("Root of %v = %q; want %q", place, got, want)
		}
	}
	// What stands beside a store is none.
	other := filepath.Join(s.root, "nix", "other")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := nixdb.Find(other); !errors.Is(err, nixdb.ErrNoStore) {
		t.Errorf("Find(%s): error %v; want ErrNoStore", other, err)
	}
	if _, err := nixdb.Find(t.TempDir()); !errors.Is(err, nixdb.ErrNoStore) {
		t.Errorf("Find in an empty folder: error %v; want ErrNoStore", err)
	}
}

func TestSchema(t *testing.T) {
	t.Parallel()
	s := newStore(t, "wal")
	name := filepath.Join(s.place.StateDir, "db", "schema")
	for _, version := range []string{"9", "11", "", "ten"} {
		if err := os.WriteFile(name, []byte(version), 0o600); err != nil {
			t.Fatal(err)
		}
		var schema *nixdb.SchemaError
		if _, err := nixdb.Open(t.Context(), s.place, t.TempDir()); !errors.As(err, &schema) || schema.Version != version {
			t.Errorf("Open with schema %q: error %v; want a SchemaError", version, err)
		}
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if _, err := nixdb.Open(t.Context(), s.place, t.TempDir()); err == nil {
		t.Error("Open without a schema works")
	}
}

func TestInfo(t *testing.T) {
	t.Parallel()
	for _, journal := range []string{"wal", "truncate"} {
		s := newStore(t, journal)
		s.add(t, 1)
		const ca = "fixed:r:sha256:1bzyg5hq4dprampj29rljw81kvrxxv7yqgij86wgs36jq40xdr91"
		signature := "k-1:" + strings.Repeat("A", 86) + "=="
		other := "a-1:" + strings.Repeat("A", 86) + "=="
		s.exec(t, "INSERT INTO ValidPaths VALUES (2, ?, ?, 1700000000, ?, 120, 1, ?, ?)", full(2), hash(2), full(1), signature+" "+other, ca)
		s.exec(t, "INSERT INTO Refs VALUES (2, 2), (2, 1)")

		before := files(t, s.root)
		db := s.open(t)
		rows, err := db.Rows(t.Context(), func(name string, err error) { t.Errorf("%s: %v", name, err) })
		if err != nil || len(rows) != 2 {
			t.Fatalf("%s: Rows = %v, %v; want 2", journal, rows, err)
		}
		want := []nix.PathInfo{{
			Path: parse[nix.StorePath](t)(nix.ParseBaseName(base(1))), NarHash: parse[nix.Hash](t)(nix.ParseHash(hash(1), 0)), RegistrationTime: 1,
		}, {
			Path: parse[nix.StorePath](t)(nix.ParseBaseName(base(2))), NarHash: parse[nix.Hash](t)(nix.ParseHash(hash(2), 0)), NarSize: 120,
			References: []nix.StorePath{rows[0].Path, rows[1].Path}, Deriver: rows[0].Path, RegistrationTime: 1700000000, Ultimate: true,
			Signatures: []nix.Signature{parse[nix.Signature](t)(nix.ParseSignature(other)), parse[nix.Signature](t)(nix.ParseSignature(signature))},
			CA:         parse[nix.ContentAddress](t)(nix.ParseContentAddress(ca)),
		}}
		for i, row := range rows {
			got, err := db.Info(t.Context(), row)
			if err != nil {
				t.Fatal(err)
			}
			equal := cmp.Comparer(func(a, b nix.StorePath) bool { return a == b })
			if diff := cmp.Diff(want[i], got, equal, cmp.Comparer(func(a, b nix.Hash) bool { return a == b })); diff != "" {
				t.Errorf("%s: Info (-want +got):\n%s", journal, diff)
			}
		}
		if got := db.StoreDir(); got != nix.DefaultStoreDir {
			t.Errorf("%s: StoreDir = %q; want %q", journal, got, nix.DefaultStoreDir)
		}
		if diff := cmp.Diff(before, files(t, s.root)); diff != "" {
			t.Errorf("%s: the store has changed (-before +after):\n%s", journal, diff)
		}
	}
}

func TestEmpty(t *testing.T) {
	t.Parallel()
	db := newStore(t, "wal").open(t)
	if got := paths(t, db, nil); len(got) != 0 || db.StoreDir() != "" {
		t.Errorf("an empty store has %v in %q", got, db.StoreDir())
	}
}

// TestBadRows: what is wrong with one path leaves the others alone.
func TestBadRows(t *testing.T) {
	t.Parallel()
	s := newStore(t, "wal")
	s.add(t, 1)
	s.add(t, 2, 1)
	s.add(t, 3, 99) // refers to nothing
	s.add(t, 4)
	s.exec(t, "UPDATE ValidPaths SET hash = 'sha256:no' WHERE id = 4")
	s.add(t, 5, 6)
	s.add(t, 6, 5)
	s.exec(t, "INSERT INTO ValidPaths (id, path, hash, registrationTime) VALUES (7, '/elsewhere/x', 'y', 1)")
	s.exec(t, "INSERT INTO ValidPaths (id, path, hash, registrationTime) VALUES (8, '/nix/store/x', 'y', 1)")
	s.exec(t, "UPDATE ValidPaths SET id = 70 WHERE id = 7")
	s.add(t, 9)
	s.exec(t, "UPDATE ValidPaths SET sigs = 'k:x' WHERE id = 9")
	s.add(t, 10)
	s.exec(t, "UPDATE ValidPaths SET deriver = 'unknown-deriver' WHERE id = 10")
	// "/elsewhere/x" is the first name, and so decides: it must not be there for this.
	s.exec(t, "UPDATE ValidPaths SET path = '/other/x' WHERE id = 70")
	db := s.open(t)
	var bad []string
	rows, err := db.Rows(t.Context(), func(name string, _ error) { bad = append(bad, name) })
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(bad)
	if want := []string{"/nix/store/x", "/other/x"}; !slices.Equal(bad, want) {
		t.Errorf("Rows tells of %q; want %q", bad, want)
	}
	if rows, err = db.Closure(t.Context(), rows, nil); err != nil {
		t.Fatal(err)
	}
	var good []string
	for _, row := range rows {
		if info, err := db.Info(t.Context(), row); err == nil {
			good = append(good, info.Path.BaseName())
		} else if info.Path != row.Path {
			t.Errorf("the error of %v comes with the info of %v", row.Path, info.Path)
		}
	}
	// Of 5 and 6, which refer to each other, 6 was met when 5 was open.
	if want := []string{base(1), base(2), base(5)}; !slices.Equal(good, want) {
		t.Errorf("good paths: %q; want %q", good, want)
	}
}

// TestRealisations: those that are wrong leave the others alone.
func TestRealisations(t *testing.T) {
	t.Parallel()
	s := newStore(t, "wal")
	s.add(t, 1)
	s.add(t, 2)
	db := s.open(t)
	if got, err := db.Realisations(t.Context(), nil); len(got) > 0 || err != nil {
		t.Errorf("without a table Realisations = %v, %v", got, err)
	}
	if n, err := db.BuildTraces(t.Context()); n != 0 || err != nil {
		t.Errorf("without a table BuildTraces = %d, %v", n, err)
	}

	s.exec(t, "CREATE TABLE Realisations (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, drvPath, outputName, outputPath, signatures)")
	s.exec(t, "CREATE TABLE BuildTraceV3 (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, drvPath, outputName, outputPath, signatures)")
	s.exec(t, "INSERT INTO BuildTraceV3 VALUES (1, 'x.drv', 'out', '/nix/store/x', NULL), (2, 'x.drv', 'dev', '/nix/store/x', NULL)")
	signatures := []string{"a-1:" + strings.Repeat("A", 86) + "==", "k-1:" + strings.Repeat("A", 86) + "=="}
	long := strings.Repeat("A", 86)
	var many strings.Builder // signatures, with different names
	for i := range 50000 {
		fmt.Fprintf(&many, "key-%d:%s== ", i, long)
	}
	for _, row := range [][]any{
		{1, hash(1), "out", 1, signatures[1] + " " + signatures[0]},
		{2, hash(2), "dev", 2, nil},
		{3, hash(3), "out", 2, ""}, // was built with 1 and 2
		{4, hash(4), "out", 99, nil},
		{5, "md5:x", "out", 1, nil},
		{6, hash(6), "a/b", 1, nil},
		{7, hash(7), "out", 1, "k:x"},
		{8, hash(1), "out", 2, nil},
		{9, hash(9), "out", 1, nil}, // was built with what is not there
		{10, nil, nil, nil, nil},
		{11, hash(11), "out", 1, many.String()},
		{12, hash(12), "out", 1, nil}, // was built with 5
		{13, hash(13), []byte{0xff}, 1, []byte{0}},
	} {
		s.exec(t, "INSERT INTO Realisations VALUES (?, ?, ?, ?, ?)", row...)
	}
	want := []nix.Realisation{
		realisation(t, 1, "out", 1), realisation(t, 2, "dev", 2), realisation(t, 3, "out", 2),
	}
	want[0].AddSignatures(parse[nix.Signature](t)(nix.ParseSignature(signatures[0])), parse[nix.Signature](t)(nix.ParseSignature(signatures[1])))
	s.exec(t, "CREATE TABLE RealisationsRefs (referrer INTEGER NOT NULL, realisationReference INTEGER)")
	s.exec(t, "INSERT INTO RealisationsRefs VALUES (3, 1), (3, 2), (9, 99), (9, NULL), (12, 5), (77, 1)")
	want[2].Dependencies = map[nix.DrvOutput]nix.StorePath{want[0].ID: want[0].OutPath, want[1].ID: want[1].OutPath}
	bad := map[string]string{}
	got, err := s.open(t).Realisations(t.Context(), func(name string, out nix.StorePath, err error) {
		bad[strings.TrimPrefix(name, "sha256:"+strings.Repeat("0", 62))] = fmt.Sprint(out.BaseName(), ": ", err)
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(texts(t, want), texts(t, got)); diff != "" {
		t.Errorf("Realisations (-want +got):\n%s", diff)
	}
	for name, text := range map[string]string{
		"04!out": "does not know", "md5:x!out": "derivation output id", "06!a/b": "illegal character", "07!out": "signature", "01!out": "twice",
		"09!out": "does not know", "!": "does not know", "0b!out": "more than", "0c!out": "derivation output id", "0d!\xff": "illegal character",
	} {
		if !strings.Contains(bad[name], text) {
			t.Errorf("what is wrong with %q is %q; want something with %q", name, bad[name], text)
		}
		delete(bad, name)
	}
	if len(bad) > 0 {
		t.Errorf("these are bad, too: %q", bad)
	}
	if n, err := s.open(t).BuildTraces(t.Context()); n != 2 || err != nil {
		t.Errorf("BuildTraces = %d, %v; want 2", n, err)
	}
}

func realisation(tb testing.TB, i int, output string, path int) nix.Realisation {
	tb.Helper()
	return nix.Realisation{
		ID: nix.DrvOutput{Hash: parse[nix.Hash](tb)(nix.ParseHash(hash(i), 0)), Output: output}, OutPath: parse[nix.StorePath](tb)(nix.ParseBaseName(base(path))),
	}
}

func texts(tb testing.TB, realisations []nix.Realisation) (all []string) {
	tb.Helper()
	for _, r := range realisations {
		all = append(all, string(parse[[]byte](tb)(r.JSON())))
	}
	return all
}

// TestClosure compares Closure with its definition.
func TestClosure(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s := newStore(t, "truncate")
		n := rapid.IntRange(1, 12).Draw(rt, "paths")
		refs := map[int][]int{}
		ids := rapid.Permutation(numbers(n)).Draw(rt, "ids") // so that they are in no order
		for i, id := range ids {
			for j := range i + 1 { // also itself
				if rapid.Bool().Draw(rt, "refers") {
					refs[id] = append(refs[id], ids[j])
				}
			}
			s.add(t, id, refs[id]...)
		}
		chosen := rapid.SliceOfDistinct(rapid.SampledFrom(ids), rapid.ID).Draw(rt, "chosen")
		want := map[string]bool{}
		var reach func(id int)
		reach = func(id int) {
			if !want[base(id)] {
				want[base(id)] = true
				for _, ref := range refs[id] {
					reach(ref)
				}
			}
		}
		start := []nix.StorePath{}
		for _, id := range chosen {
			start = append(start, parse[nix.StorePath](t)(nix.ParseBaseName(base(id))))
			reach(id)
		}
		got := paths(t, s.open(t), start)
		if len(got) != len(want) {
			rt.Fatalf("Closure has %d paths; want %d", len(got), len(want))
		}
		for i, name := range got {
			if !want[name] {
				rt.Errorf("Closure has %s", name)
			}
			for _, ref := range refs[slices.IndexFunc(numbers(n+1), func(id int) bool { return base(id) == name })] {
				if at := slices.Index(got, base(ref)); at > i || at < 0 {
					rt.Errorf("%s is before %s, to which it refers", name, base(ref))
				}
			}
		}
		_ = s.Close()
	})
}

// numbers returns 0 to n-1, without 0 for ids if it is not asked for by n+1.
func numbers(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// TestSnapshotWhileWriting copies a database that others write to all the time and finds every copy whole: the same number in every
// row, whatever the pages on which they are.
func TestSnapshotWhileWriting(t *testing.T) {
	t.Parallel()
	for _, journal := range []string{"wal", "truncate", "delete"} {
		t.Run(journal, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, journal)
			const rows = 200
			s.exec(t, "CREATE TABLE numbers (id INTEGER PRIMARY KEY, number INTEGER, filler TEXT)")
			for i := range rows {
				s.exec(t, "INSERT INTO numbers VALUES (?, 0, ?)", i, strings.Repeat("x", 1500))
			}
			s.exec(t, "PRAGMA wal_autocheckpoint = 50") // so that the WAL begins again and again
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var writer sync.WaitGroup
			defer writer.Wait()
			defer stop()
			writer.Go(func() {
				for i := 1; ctx.Err() == nil; i++ {
					if _, err := s.ExecContext(ctx, "UPDATE numbers SET number = ?", i); err != nil && ctx.Err() == nil {
						t.Error(err)
						return
					}
					switch {
					case journal != "wal":
						_ = wait(ctx, 2*time.Millisecond) // without it there is a journal all the time, which no Nix does
					case i%5 == 0:
						_, _ = s.ExecContext(ctx, "PRAGMA wal_checkpoint(truncate)")
					}
				}
			})
			copies, busy, last := 0, 0, int64(-1)
			for range 20 {
				dst := filepath.Join(t.TempDir(), "db.sqlite")
				err := nixdb.Snapshot(t.Context(), filepath.Join(s.place.StateDir, "db", "db.sqlite"), dst)
				if err != nil {
					busy++
					continue
				}
				copies++
				last = checkNumbers(t, dst, last)
			}
			t.Logf("%d copies, %d times too busy, the last number is %d", copies, busy, last)
			if copies == 0 {
				t.Error("not a single copy")
			}
		})
	}
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// checkNumbers returns the one number in a copy, which is no smaller than the last one.
func checkNumbers(t *testing.T, name string, last int64) int64 {
	t.Helper()
	db, err := sql.Open("sqlite", name)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() //nolint:errcheck // it is a copy
	var integrity string
	if err := db.QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&integrity); err != nil || integrity != "ok" {
		t.Fatalf("integrity: %s, %v", integrity, err)
	}
	var least, most int64
	if err := db.QueryRowContext(t.Context(), "SELECT min(number), max(number) FROM numbers").Scan(&least, &most); err != nil {
		t.Fatal(err)
	}
	if least != most || least < last {
		t.Fatalf("the copy has numbers from %d to %d, after %d", least, most, last)
	}
	return least
}
