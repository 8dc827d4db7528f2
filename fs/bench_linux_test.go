package fs_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/fs"
	"github.com/narfs/narfs/nar"
	"github.com/narfs/narfs/nar/cas"
)

// BenchmarkMount compares a mount with ext4. Cold is a file system just mounted whose device, or packs, are in the
// page cache. It needs root, and a tree in NARFS_BENCH_TREE of which it makes an ext4 image and a store.
//
//	NARFS_BENCH_TREE=/usr/share go test -run '^$' -bench Mount -benchtime 3x ./fs
//
// The clients are processes of their own: see benchClient.
func BenchmarkMount(b *testing.B) {
	tree := os.Getenv("NARFS_BENCH_TREE")
	if tree == "" || os.Geteuid() != 0 {
		b.Skip("needs root, and a tree in NARFS_BENCH_TREE")
	}
	list := filepath.Join(b.TempDir(), "list")
	listTree(b, tree, list)
	image := filepath.Join(b.TempDir(), "ext4")
	makeExt4(b, tree, image)
	src := newStoreSource(b, tree)
	remounts := map[string]func(b *testing.B, dir string) (root string, unmount func()){
		"ext4": func(b *testing.B, dir string) (string, func()) {
			b.Helper()
			run(b, "mount", "-o", "loop,ro", image, dir)
			return filepath.Join(dir, filepath.Base(tree)), func() { run(b, "umount", dir) }
		},
		"narfs": func(b *testing.B, dir string) (string, func()) {
			b.Helper()
			m, err := fs.New(b.Context(), src, dir, fs.Options{})
			if err != nil {
				b.Fatal(err)
			}
			return filepath.Join(dir, src.name), func() {
				if err := m.Unmount(context.Background()); err != nil { //nolint:usetesting // also after the benchmark
					b.Error(err)
				}
			}
		},
	}
	for _, op := range benchOps() {
		for _, kind := range []string{"ext4", "narfs"} {
			for _, warm := range []bool{false, true} {
				b.Run(fmt.Sprintf("%s/warm=%v/%s", op, warm, kind), func(b *testing.B) {
					var best time.Duration
					for range b.N {
						root, unmount := remounts[kind](b, b.TempDir())
						took := benchRun(b, op, root, list)
						if warm {
							took = min(benchRun(b, op, root, list), benchRun(b, op, root, list))
						}
						unmount()
						if best == 0 || took < best {
							best = took
						}
					}
					b.ReportMetric(0, "ns/op")
					b.ReportMetric(best.Seconds()*1000, "ms(best)")
				})
			}
		}
	}
}

func benchOps() []string {
	return []string{"find", "ls", "du", "stat", "absent", "open", "read", "rand", "seq"}
}

func run(b *testing.B, name string, args ...string) {
	b.Helper()
	if out, err := exec.CommandContext(context.Background(), name, args...).CombinedOutput(); err != nil { //nolint:usetesting // also after the benchmark
		b.Fatalf("%s: %v: %s", name, err, out)
	}
}

// listTree writes the paths of all regular files to list in a random but fixed order, the biggest one first.
func listTree(b *testing.B, tree, list string) {
	b.Helper()
	var files []string
	var biggest int64
	first := 0
	err := filepath.WalkDir(tree, func(path string, d iofs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(tree, path)
		if info.Size() > biggest {
			biggest, first = info.Size(), len(files)
		}
		files = append(files, rel)
		return err
	})
	if err != nil || len(files) == 0 {
		b.Fatalf("listing %s: %d files, %v", tree, len(files), err)
	}
	files[0], files[first] = files[first], files[0]
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same order every time
	random.Shuffle(len(files)-1, func(i, j int) { files[i+1], files[j+1] = files[j+1], files[i+1] })
	if err := os.WriteFile(list, []byte(strings.Join(files, "\n")+"\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	b.Logf("%d files, the biggest has %d MB", len(files), biggest>>20)
}

func makeExt4(b *testing.B, tree, image string) {
	b.Helper()
	parent := filepath.Join(b.TempDir(), "parent") // mkfs.ext4 -d takes what is below
	if err := os.Mkdir(parent, 0o755); err != nil {
		b.Fatal(err)
	}
	run(b, "cp", "-a", tree, parent)
	out, err := exec.CommandContext(b.Context(), "du", "-sk", "--apparent-size", parent).Output()
	if err != nil {
		b.Fatal(err)
	}
	kb, _ := strconv.Atoi(strings.Fields(string(out))[0])
	run(b, "mkfs.ext4", "-q", "-F", "-N", "400000", "-d", parent, image, fmt.Sprintf("%dk", kb*2+400_000))
	if err := os.RemoveAll(parent); err != nil {
		b.Fatal(err)
	}
}

// storeSource is a content store with one store path.
type storeSource struct {
	name   string
	object *cas.Object
}

func newStoreSource(b *testing.B, tree string) *storeSource {
	b.Helper()
	store, err := cas.Open(b.TempDir(), cas.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = store.Close() })
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(nar.Dump(w, tree, nar.DumpOptions{})) }()
	staged, err := store.Ingest(b.Context(), bufio.NewReaderSize(r, 1<<20), cas.IngestOptions{})
	if err != nil {
		b.Fatal(err)
	}
	var batch cas.Batch
	batch.PutObject(staged)
	if err := store.Commit(b.Context(), &batch); err != nil {
		b.Fatal(err)
	}
	object, err := store.Object(staged.Info().NarHash)
	if err != nil {
		b.Fatal(err)
	}
	return &storeSource{"00000000000000000000000000000001-" + filepath.Base(tree), object}
}

func (s *storeSource) Lookup(name string) (uint32, error) {
	if name == s.name {
		return 1, nil
	}
	return 0, iofs.ErrNotExist
}

func (s *storeSource) Open(uint32) (fs.Object, error) { return storeObject{s.object}, nil }

func (s *storeSource) List(yield func(string, uint32) bool) error {
	yield(s.name, 1)
	return nil
}

func (*storeSource) Usage() fs.Usage { return fs.Usage{Paths: 1} }

type storeObject struct{ *cas.Object }

func (o storeObject) Span(node uint32, off int64, n int) ([]byte, int64, func(), error) {
	span, err := o.Object.Span(node, off, n)
	if err != nil {
		return nil, 0, nil, err
	}
	return span.Data, span.Off, span.Release, nil
}

// benchRun runs a client process and returns the time that it says it took.
func benchRun(b *testing.B, op, root, list string) time.Duration {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "NARFS_BENCH_CLIENT="+op, "NARFS_BENCH_ROOT="+root, "NARFS_BENCH_LIST="+list)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		b.Fatalf("%s: %v", op, err)
	}
	took, err := time.ParseDuration(strings.TrimSpace(string(out)))
	if err != nil {
		b.Fatal(err)
	}
	return took
}

// benchClient does one of benchOps and says how long it took.
func benchClient(op string, out io.Writer) int {
	root := os.Getenv("NARFS_BENCH_ROOT")
	list, err := os.ReadFile(os.Getenv("NARFS_BENCH_LIST"))
	if err != nil {
		panic(err)
	}
	files := strings.Split(strings.TrimSuffix(string(list), "\n"), "\n")
	for i := range files {
		files[i] = filepath.Join(root, files[i])
	}
	start := time.Now()
	switch op {
	case "find":
		err = exec.Command("find", root).Run()
	case "ls":
		err = exec.Command("ls", "-lR", root).Run()
	case "du":
		err = exec.Command("du", "-s", root).Run()
	default:
		err = benchFiles(op, files)
	}
	if err != nil {
		panic(err)
	}
	_, _ = fmt.Fprintln(out, time.Since(start))
	return 0
}

func benchFiles(op string, files []string) error {
	buf := make([]byte, 1<<20)
	if op == "rand" || op == "seq" {
		return benchBig(op, files[0], buf)
	}
	var st unix.Stat_t
	for _, path := range files {
		switch op {
		case "stat":
			if err := unix.Lstat(path, &st); err != nil {
				return err
			}
		case "absent":
			if err := unix.Lstat(path+"?", &st); err != unix.ENOENT {
				return fmt.Errorf("absent: %w", err)
			}
		default:
			fd, err := unix.Open(path, unix.O_RDONLY, 0)
			if err != nil {
				return err
			}
			for n := 1; op == "read" && n > 0; {
				if n, err = unix.Read(fd, buf); err != nil {
					return err
				}
			}
			if err := unix.Close(fd); err != nil {
				return err
			}
		}
	}
	return nil
}

func benchBig(op, path string, buf []byte) error {
	fd, err := unix.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // only read
	size, err := unix.Seek(fd, 0, io.SeekEnd)
	if err != nil {
		return err
	}
	if op == "rand" {
		if err := unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM); err != nil {
			return err
		}
		pages := rand.New(rand.NewPCG(3, 4)).Perm(int(size / 4096)) //nolint:gosec // the same order every time
		for page := range slices.Values(pages[:min(len(pages), 16384)]) {
			if _, err := unix.Pread(fd, buf[:4096], int64(page)*4096); err != nil {
				return err
			}
		}
		return nil
	}
	for off := int64(0); off < size; off += int64(len(buf)) {
		if _, err := unix.Pread(fd, buf, off); err != nil {
			return err
		}
	}
	return nil
}
