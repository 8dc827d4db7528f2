package cas_test

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/narfs/narfs/nar/cas"
)

// disk is a packs folder that can lose power and fail. It remembers of every file what was
// synced and what was only written.
type disk struct {
	dir string

	mu    sync.Mutex
	files map[string]*diskFile
	ops   int // writes and syncs so far
	fail  map[int]error
	dead  error // every operation fails with it: the machine is off
	log   []string
}

type diskFile struct {
	d      *disk
	name   string
	f      *os.File
	synced []byte
	writes []write // since the last sync
}

type write struct {
	off  int64
	data []byte // nil: truncation to off
}

func newDisk(dir string) *disk {
	return &disk{dir: dir, files: map[string]*diskFile{}, fail: map[int]error{}}
}

// step counts an operation and gives the error it is to fail with.
func (d *disk) step(what string) error {
	if d.dead != nil {
		return d.dead
	}
	d.ops++
	if err := d.fail[d.ops]; err != nil {
		d.log = append(d.log, fmt.Sprintf("%d %s: %v", d.ops, what, err))
		return err
	}
	return nil
}

func (d *disk) Create(name string) (cas.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("create"); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(d.dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	df := &diskFile{d: d, name: name, f: f}
	d.files[name] = df
	return df, nil
}

func (d *disk) Open(name string) (cas.File, int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, err := os.ReadFile(filepath.Join(d.dir, name))
	if err != nil {
		return nil, 0, err
	}
	f, err := os.OpenFile(filepath.Join(d.dir, name), os.O_RDWR, 0)
	if err != nil {
		return nil, 0, err
	}
	df := &diskFile{d: d, name: name, f: f, synced: b}
	d.files[name] = df
	return df, int64(len(b)), nil
}

func (d *disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("remove"); err != nil {
		return err
	}
	delete(d.files, name)
	return os.Remove(filepath.Join(d.dir, name))
}

func (d *disk) List() (names []string, err error) {
	ents, err := os.ReadDir(d.dir)
	for _, e := range ents {
		names = append(names, e.Name())
	}
	return names, err
}

func (*disk) Free() (int64, error) { return 1 << 40, nil }

func (f *diskFile) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }
func (f *diskFile) Close() error                            { return f.f.Close() }

func (f *diskFile) WriteAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.step("write"); err != nil {
		// As on a full disk, some of it may be there.
		n, _ := f.f.WriteAt(p[:len(p)/2], off)
		f.writes = append(f.writes, write{off, append([]byte{}, p[:n]...)})
		return n, err
	}
	f.writes = append(f.writes, write{off, append([]byte{}, p...)})
	return f.f.WriteAt(p, off)
}

func (f *diskFile) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.step("sync"); err != nil {
		return err
	}
	f.synced = f.image(f.writes)
	f.writes = nil
	return nil
}

func (f *diskFile) Truncate(size int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.step("truncate"); err != nil {
		return err
	}
	f.writes = append(f.writes, write{off: size})
	return f.f.Truncate(size)
}

func (f *diskFile) PunchHole(off, n int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.step("punch"); err != nil {
		return err
	}
	f.writes = append(f.writes, write{off, make([]byte, n)})
	_, err := f.f.WriteAt(make([]byte, n), off)
	return err
}

// image is the file with some of what was written since the last sync.
func (f *diskFile) image(writes []write) []byte {
	b := append([]byte{}, f.synced...)
	for _, w := range writes {
		if w.data == nil {
			b = append(b, make([]byte, max(0, int(w.off)-len(b)))...)[:w.off]
			continue
		}
		if need := int(w.off) + len(w.data); need > len(b) {
			b = append(b, make([]byte, need-len(b))...)
		}
		copy(b[w.off:], w.data)
	}
	return b
}

// cutPower leaves in dir what a power cut would: of the writes since a file's last sync any
// subset, of each any pages.
func (d *disk) cutPower(tb testing.TB, dir string, rng *rand.Rand) {
	tb.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead = errors.New("the power is off")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	for name, f := range d.files {
		var kept []write
		for _, w := range f.writes {
			switch rng.IntN(4) {
			case 0: // lost
			case 1: // torn
				if w.data != nil {
					n := rng.IntN(len(w.data) + 1)
					kept = append(kept, write{w.off + int64(n), w.data[n:]}, write{w.off, w.data[:n/2]})
				}
			default:
				kept = append(kept, w)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, name), f.image(kept), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
}

// copyTree copies what is not the packs: the index and the format.
func copyTree(tb testing.TB, from, to string) {
	tb.Helper()
	err := filepath.WalkDir(from, func(path string, e iofs.DirEntry, err error) error {
		rel, _ := filepath.Rel(from, path)
		if err != nil || strings.HasPrefix(rel, "packs") {
			return err
		}
		if e.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, iofs.ErrNotExist) {
			return nil
		}
		if err == nil && e.Name() != "LOCK" {
			err = os.WriteFile(filepath.Join(to, rel), b, 0o600)
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// workload imports, deletes and sweeps until something fails, and says what was acknowledged.
type workload struct {
	archives []archive
	state    map[int]bool // archive → acknowledged as there (true) or as deleted (false)
	unsure   int          // the one whose change was not acknowledged, or -1
}

func (w *workload) run(tb testing.TB, s *cas.Store, rng *rand.Rand) error {
	tb.Helper()
	for step := range 40 {
		i := rng.IntN(len(w.archives))
		w.unsure = i
		if step%9 == 8 {
			w.unsure = -1
			if _, err := s.Sweep(tb.Context(), cas.SweepOptions{Compress: step%2 == 0}); err != nil {
				return err
			}
			continue
		}
		if err := w.toggle(tb, s, i); err != nil {
			return err
		}
	}
	w.unsure = -1
	return nil
}

// toggle imports archive i, or deletes it if it is there.
func (w *workload) toggle(tb testing.TB, s *cas.Store, i int) error {
	tb.Helper()
	if !w.state[i] {
		if err := importOne(tb, s, w.archives[i], i); err != nil {
			return err
		}
		w.state[i] = true
		return nil
	}
	var b cas.Batch
	b.DeleteObject(w.archives[i].hash)
	b.Delete([]byte(strconv.Itoa(i)))
	if err := s.Commit(tb.Context(), &b); err != nil {
		return err
	}
	w.state[i] = false
	return nil
}

func importOne(tb testing.TB, s *cas.Store, a archive, i int) error {
	tb.Helper()
	st, err := s.Ingest(tb.Context(), strings.NewReader(string(a.nar)), cas.IngestOptions{})
	if err != nil {
		return err
	}
	var b cas.Batch
	b.PutObject(st)
	b.Put([]byte(strconv.Itoa(i)), a.hash[:])
	return s.Commit(tb.Context(), &b)
}

// holds checks the laws on a store that was opened again.
func (w *workload) holds(tb testing.TB, s *cas.Store) {
	tb.Helper()
	for i, a := range w.archives {
		_, kerr := s.Get([]byte(strconv.Itoa(i)))
		_, oerr := s.Object(a.hash)
		if (kerr == nil) != (oerr == nil) {
			tb.Fatalf("archive %d: key %v, object %v: half a commit", i, kerr, oerr)
		}
		if i != w.unsure && w.state[i] != (oerr == nil) {
			tb.Fatalf("archive %d: acknowledged as there: %v; Object = %v", i, w.state[i], oerr)
		}
		if oerr == nil {
			check(tb, s, a)
		}
	}
	if found := verify(tb, s); len(found) > 0 {
		tb.Fatalf("Verify found %v", found)
	}
}

func newWorkload(tb testing.TB) *workload {
	tb.Helper()
	w := &workload{state: map[int]bool{}, unsure: -1}
	for seed := range uint64(8) {
		w.archives = append(w.archives, makeNAR(tb, seed, 12))
	}
	return w
}

func smallDisk(d *disk) cas.Options {
	o := small()
	o.PackSize = 24 << 10
	o.Files = d
	return o
}

// Power is cut at a random write or sync: what was acknowledged is there, nothing is there
// in part, and the store goes on working.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	runs := longRuns(60, 15)
	for run := range runs {
		t.Run(fmt.Sprint(run), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(uint64(run), 7))
			base := t.TempDir()
			dir, after := filepath.Join(base, "before"), filepath.Join(base, "after")
			d := newDisk(filepath.Join(dir, "packs"))
			s := open(t, dir, smallDisk(d))
			w := newWorkload(t)
			d.fail[1+rng.IntN(150)] = errors.New("the power is off")
			err := w.run(t, s, rng)
			if err == nil {
				w.unsure = -1
			}
			d.cutPower(t, filepath.Join(after, "packs"), rng)
			copyTree(t, dir, after)
			o := small()
			o.PackSize = 24 << 10
			s2 := open(t, after, o)
			w.holds(t, s2)
			w.unsure = -1
			for i, a := range w.archives {
				_, err := s2.Object(a.hash)
				w.state[i] = err == nil
			}
			if err := w.run(t, s2, rng); err != nil {
				t.Fatalf("after the power cut: %v", err)
			}
			w.holds(t, s2)
		})
	}
}

// Every write and sync fails once, with a full disk or an I/O error: the operation fails
// with that error, what was acknowledged is there, and a store opened again is whole.
func TestFailingDisk(t *testing.T) {
	t.Parallel()
	stepBy := 240 / longRuns(80, 15)
	for at := 1; at < 240; at += stepBy {
		for _, cause := range []error{syscall.ENOSPC, syscall.EIO} {
			t.Run(fmt.Sprintf("%d %v", at, cause), func(t *testing.T) {
				t.Parallel()
				rng := rand.New(rand.NewPCG(5, 7))
				dir := t.TempDir()
				d := newDisk(filepath.Join(dir, "packs"))
				s := open(t, dir, smallDisk(d))
				w := newWorkload(t)
				d.fail[at] = cause
				err := w.run(t, s, rng)
				if err != nil && !errors.Is(err, cause) {
					t.Fatalf("error = %v; want %v", err, cause)
				}
				if err == nil && at < 60 {
					t.Fatalf("nothing failed at operation %d of %d", at, d.ops)
				}
				_ = s.Close() // fails once a sync has
				o := small()
				o.PackSize = 24 << 10
				s2 := open(t, dir, o)
				w.holds(t, s2)
			})
		}
	}
}
