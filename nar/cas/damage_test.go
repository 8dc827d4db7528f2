package cas_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/narfs/narfs/nar"
	"github.com/narfs/narfs/nar/cas"
)

// onePack makes stores whose log is one pack.
func onePack() cas.Options {
	o := small()
	o.PackSize = 1 << 30
	return o
}

func packFile(dir string) string { return filepath.Join(dir, "packs", "00000001.pack") }

func sizeOf(tb testing.TB, name string) int64 {
	tb.Helper()
	info, err := os.Stat(name)
	if err != nil {
		tb.Fatal(err)
	}
	return info.Size()
}

// ownNAR makes a NAR that shares nothing with those of other seeds.
func ownNAR(tb testing.TB, seed int) archive {
	tb.Helper()
	var buf bytes.Buffer
	w := nar.NewWriter(&buf)
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	headers := []nar.Header{{Depth: 1, Type: nar.TypeDirectory}}
	for i := range 30 {
		headers = append(headers, nar.Header{Depth: 2, Name: fmt.Sprintf("%02d", i), Type: nar.TypeRegular, Size: int64(100 * i)})
	}
	for _, h := range headers {
		data := make([]byte, h.Size)
		_, _ = rng.Read(data)
		if err := w.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return archive{nar: buf.Bytes(), hash: sha256.Sum256(buf.Bytes())}
}

// region is where an archive stands in the pack.
type region struct {
	archive

	from, to int64
}

// logOf imports n archives and returns where they stand. early is a copy of the index as it was after some of them.
func logOf(tb testing.TB, dir, early string, n int, closed bool) (all []region) {
	tb.Helper()
	s := open(tb, dir, onePack())
	for i := range n {
		a := ownNAR(tb, i)
		r := region{archive: a}
		if i > 0 {
			r.from = sizeOf(tb, packFile(dir))
		}
		put(tb, s, a)
		r.to = sizeOf(tb, packFile(dir))
		all = append(all, r)
		if i == n/3 {
			copyTree(tb, dir, early)
		}
	}
	if closed {
		closeStore(tb, s)
	}
	return all
}

// Bits are flipped in the last pack, at places behind which other things were acknowledged: whatever was not hit is
// there and whole, whether the index is made again or catches up, and what was hit is told.
func TestDamageInTheLog(t *testing.T) {
	t.Parallel()
	const archives = 8
	for _, how := range []string{"rebuilt", "rebuilt after a kill", "replayed", "replayed after a torn end"} {
		base := t.TempDir()
		closed := how == "rebuilt" || how == "replayed"
		dir, early := filepath.Join(base, "store"), filepath.Join(base, "early")
		all := logOf(t, dir, early, archives, closed)
		for run := range longRuns(200, 6) {
			t.Run(fmt.Sprintf("%s %d", how, run), func(t *testing.T) {
				t.Parallel()
				rng := rand.New(rand.NewPCG(uint64(run), 11))
				copied := filepath.Join(t.TempDir(), "store")
				copyTree(t, dir, copied)
				if how == "replayed" || how == "replayed after a torn end" {
					if err := os.RemoveAll(filepath.Join(copied, "index")); err != nil {
						t.Fatal(err)
					}
					copyTree(t, early, copied)
				}
				b, err := os.ReadFile(packFile(dir))
				if err != nil {
					t.Fatal(err)
				}
				last := all[archives-1]
				lost := how == "replayed after a torn end"
				if lost {
					b = b[:last.from+rng.Int64N(last.to-last.from)]
				}
				// It is the next commit, or Close, that tells that an archive was acknowledged.
				hit, told := map[int]bool{}, archives
				if !closed {
					told--
				}
				if lost {
					told--
				}
				for range rng.IntN(4) + 1 {
					r := rng.IntN(told)
					hit[r] = true
					at := max(all[r].from, 32) + rng.Int64N(all[r].to-max(all[r].from, 32))
					for i := range min(1<<rng.IntN(12), all[r].to-at) {
						b[at+i] ^= 1 << rng.IntN(8)
					}
				}
				if err := os.MkdirAll(filepath.Dir(packFile(copied)), 0o700); err != nil {
					t.Fatal(err)
				}
				writeFile(t, packFile(copied), string(b))
				again := func() *cas.Store {
					if how == "rebuilt" || how == "rebuilt after a kill" {
						s, err := cas.RebuildIndex(copied, onePack())
						if err != nil {
							t.Fatal(err)
						}
						t.Cleanup(func() { _ = s.Close() })
						return s
					}
					return open(t, copied, onePack())
				}
				s := again()
				for step := range 3 {
					// The first third stands before the checkpoint of the index that catches up.
					named := map[[32]byte]bool{}
					for _, d := range verify(t, s) {
						named[d.NarHash] = true
					}
					for i, a := range all {
						switch {
						case i == archives-1 && lost:
							if _, err := s.Object(a.hash); !errors.Is(err, cas.ErrNotFound) {
								t.Errorf("step %d: what was not acknowledged: %v; want ErrNotFound", step, err)
							}
						case !hit[i]:
							check(t, s, a.archive)
						default:
							if _, err := s.Object(a.hash); err == nil && readAll(t, s, []archive{a.archive}) > 0 && !named[a.hash] {
								t.Errorf("step %d: archive %d is damaged and Verify does not say so", step, i)
							}
						}
					}
					if len(named) == 0 {
						t.Errorf("step %d: Verify found nothing", step)
					}
					// The damage stays what it is, whatever comes after it.
					if step == 1 {
						put(t, s, ownNAR(t, 100))
					}
					closeStore(t, s)
					s = again()
				}
				check(t, s, ownNAR(t, 100))
			})
		}
	}
}

// The power is cut while a damaged log with a torn end is taken up again: what was acknowledged is still there, and
// what was not is not, though the frame that tells them apart stands behind what tore.
func TestPowerCutInRecovery(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	dir := filepath.Join(base, "store")
	all := logOf(t, dir, filepath.Join(base, "early"), 4, false)
	b, err := os.ReadFile(packFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	b[all[2].from+1000] ^= 1
	b[all[3].from+1000] ^= 1
	for at := 1; ; at++ {
		before, after := filepath.Join(base, fmt.Sprint("before", at)), filepath.Join(base, fmt.Sprint("after", at))
		copyTree(t, dir, before)
		if err := os.Mkdir(filepath.Join(before, "packs"), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, packFile(before), string(b))
		d := newDisk(filepath.Join(before, "packs"))
		d.fail[at] = errors.New("the power is off")
		o := onePack()
		o.Files = d
		s, err := cas.RebuildIndex(before, o)
		if err == nil {
			_ = s.Close()
		}
		failed := len(d.log) > 0
		d.cutPower(t, filepath.Join(after, "packs"), rand.New(rand.NewPCG(uint64(at), 13)))
		copyTree(t, before, after)
		for range 2 {
			if s, err = cas.RebuildIndex(after, onePack()); err != nil {
				t.Fatal(err)
			}
			check(t, s, all[0].archive)
			check(t, s, all[1].archive)
			if _, err := s.Object(all[3].hash); !errors.Is(err, cas.ErrNotFound) {
				t.Errorf("failed at %d: what was not acknowledged: %v; want ErrNotFound", at, err)
			}
			if len(s.Damage()) == 0 {
				t.Errorf("failed at %d: no damage is told", at)
			}
			closeStore(t, s)
		}
		if !failed {
			return
		}
	}
}

// A commit of several frames that lost one has lost what that held, and no more; torn at the end of the log, it was
// never acknowledged, and nothing of it is there.
func TestDamagedCommit(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	s := open(t, dir, onePack())
	put(t, s, ownNAR(t, 1))
	from := sizeOf(t, packFile(dir))
	rng := rand.NewChaCha8([32]byte{7})
	var b cas.Batch
	const keys = 12
	for i := range keys {
		value := make([]byte, 400<<10)
		_, _ = rng.Read(value)
		b.Put([]byte{byte(i)}, value)
	}
	if err := s.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	to := sizeOf(t, packFile(dir))
	put(t, s, ownNAR(t, 2))
	closeStore(t, s)
	whole, err := os.ReadFile(packFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	try := func(t *testing.T, b []byte) (have []int) {
		t.Helper()
		writeFile(t, packFile(dir), string(b))
		s, err := cas.RebuildIndex(dir, onePack())
		if err != nil {
			t.Fatal(err)
		}
		defer closeStore(t, s)
		check(t, s, ownNAR(t, 1))
		for i := range keys {
			if _, err := s.Get([]byte{byte(i)}); err == nil {
				have = append(have, i)
			}
		}
		return have
	}
	for at := from + 1000; at < to; at += (to - from) / 9 {
		b := slices.Clone(whole)
		b[at] ^= 1
		if have := try(t, b); len(have) == keys || len(have) < keys/2 {
			t.Errorf("flipped at %d of %d: the keys %v are there", at-from, to-from, have)
		}
		if have := try(t, slices.Clone(whole[:at])); len(have) > 0 {
			t.Errorf("torn at %d of %d: the keys %v are there", at-from, to-from, have)
		}
	}
}

// A pack whose header is broken is used all the same.
func TestBrokenPackHeader(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	s := open(t, dir, onePack())
	put(t, s, ownNAR(t, 1))
	closeStore(t, s)
	b, err := os.ReadFile(packFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	b[17] ^= 1
	writeFile(t, packFile(dir), string(b))
	s = open(t, dir, onePack())
	check(t, s, ownNAR(t, 1))
	if len(s.Damage()) == 0 {
		t.Error("no damage is told")
	}
	closeStore(t, s)
	s = open(t, dir, onePack())
	check(t, s, ownNAR(t, 1))
	if d := s.Damage(); len(d) > 0 {
		t.Errorf("opened again, damage is told: %v", d)
	}
}
