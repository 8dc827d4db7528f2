package daemon_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/narfs/narfs/tests/env"
)

// forever writes parts and then the same again and again, until the other side has had enough.
func forever(c *env.Serve, head []byte, again func(i int) []byte) {
	if _, err := c.Stdin.Write(head); err != nil {
		return
	}
	for i := 0; ; i++ {
		if _, err := c.Stdin.Write(again(i)); err != nil {
			return
		}
	}
}

// peak is the most memory that a running process has had resident, in bytes.
func peak(t *testing.T, p *env.Process) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal("the kernel does not tell the memory of a process")
	return 0
}

func descriptors(t *testing.T, p *env.Process) int {
	t.Helper()
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func entry(name string, node ...any) []byte {
	return env.Wire(append(append([]any{"entry", "(", "name", name, "node"}, node...), ")")...)
}

var emptyFile = env.Wire("(", "type", "regular", "contents", "", ")")

func folder(entries ...[]byte) []byte {
	return env.Wire("nix-archive-1", "(", "type", "directory", bytes.Join(entries, nil), ")")
}

// Whatever a client sends: it is told what is wrong, its session ends, nothing of it is visible, and the daemon goes on, in bounded
// memory and without a descriptor more.
func TestHostile(t *testing.T) {
	s := env.NewStore(t)
	p := daemon(t, s, "--option", "memory-budget=16M", "ENV:GOMEMLIMIT=256MiB")
	bystander := env.StartServe(t, s.Command("serve", "--write"))
	kept := add(bystander, "kept", "all the while")
	before := descriptors(t, p)
	path := storePath("hostile")
	pathAt := func(i int) []byte { return env.Wire(storePathAt(i)) }
	claim := func(archive []byte) []byte {
		return append(addRequest(path, hexSum(archive), len(archive)), archive...)
	}
	nested := env.Wire("nix-archive-1")
	for range 100_000 {
		nested = append(nested, env.Wire("(", "type", "directory", "entry", "(", "name", "a", "node")...)
	}
	link := env.Wire("(", "type", "symlink", "target", "/etc", ")")
	tests := []struct {
		name  string
		head  []byte
		again func(i int) []byte // nil: nothing more
		want  string
	}{
		{"an unknown command", env.Wire(4711), nil, "unknown serve command 4711"},
		{"a list of 2^40 paths", env.Wire(env.ServeQueryPathInfos, 1<<40), nil, "paths: length 1099511627776 exceeds"},
		{"a path of 2^40 bytes", env.Wire(env.ServeDumpStorePath, 1<<40), nil, "store path: length 1099511627776 exceeds"},
		{"a list without end", env.Wire(env.ServeQueryValidPaths, 0, 0, 1<<21), pathAt, "narfs daemon out of memory: "},
		{"infos without end", env.Wire(env.ServeQueryPathInfos, 1<<21), pathAt, "narfs daemon out of memory: "},
		{"references without end", env.Wire(env.ServeAddToStoreNar, path, "", strings.Repeat("0", 64), 1<<18), pathAt, "narfs daemon out of memory: "},
		{"signatures without end", env.Wire(env.ServeAddToStoreNar, path, "", strings.Repeat("0", 64), 0, 0, 8, 0, 1<<40), nil, "signatures: length"},
		{"a hash of 2^40 bytes", env.Wire(env.ServeAddToStoreNar, path, "", 1<<40), nil, "NAR hash: length"},
		{"a file of 2^62 bytes", append(addRequest(path, hexSum(nil), 8), env.Wire("nix-archive-1", "(", "type", "regular", "contents", 1<<62)...), nil, ""},
		{"a name of 2^40 bytes", append(addRequest(path, hexSum(nil), 1<<40), env.Wire("nix-archive-1", "(", "type", "directory", "entry", "(", "name", 1<<40)...), nil, "exceeds"},
		{"100,000 folders in each other", append(addRequest(path, hexSum(nested), len(nested)), nested...), nil, "nested deeper than 64 levels"},
		{"a folder without end", append(addRequest(path, hexSum(nil), 8), env.Wire("nix-archive-1", "(", "type", "directory")...), func(i int) []byte {
			return entry(fmt.Sprintf("%08d", i), emptyFile)
		}, "size mismatch importing path"},
		{"no NAR at all", append(addRequest(path, hexSum(nil), 8), bytes.Repeat([]byte("rubbish!"), 1000)...), nil, ""},
		{"a name twice", claim(folder(entry("a", emptyFile), entry("a", emptyFile))), nil, "two entries"},
		{"names in disorder", claim(folder(entry("b", emptyFile), entry("a", emptyFile))), nil, "not sorted"},
		{"a link and a folder of the same name", claim(folder(entry("a", link), entry("a", folder(entry("passwd", emptyFile))[24:]))), nil, "two entries"},
		{"the folder above", claim(folder(entry("..", emptyFile))), nil, "name"},
		{"a slash in a name", claim(folder(entry("a/b", emptyFile))), nil, "name"},
		{"NUL in a name", claim(folder(entry("a\x00b", emptyFile))), nil, "name"},
		{"no name", claim(folder(entry("", emptyFile))), nil, "name"},
		{"other contents than said", append(addRequest(path, hexSum([]byte("other")), len(file("x"))), file("x")...), nil, "hash mismatch importing path"},
		{"another size than said", append(addRequest(path, hexSum(file("x")), 8), file("x")...), nil, "size mismatch importing path"},
		{"a reference that is not there", append(addRequest(path, hexSum(file("x")), len(file("x")), storePath("absent")), file("x")...), nil, "is not valid"},
		{"a path elsewhere", env.Wire(env.ServeAddToStoreNar, "/etc/passwd"), nil, "not in the Nix store"},
		{"a path above", env.Wire(env.ServeAddToStoreNar, "/nix/store/../../etc/passwd"), nil, ""},
		{"no export stream", env.Wire(env.ServeImportPaths, 7), nil, "doesn't look like something created by 'nix-store --export'"},
		{"an export of 2^40 references", append(env.Wire(env.ServeImportPaths, 1), append(file("x"), env.Wire(0x4558494e, path, 1<<40)...)...), nil, "references: length"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := env.StartServe(t, s.Command("serve", "--write"))
			if test.again != nil {
				done := make(chan struct{})
				go func() { defer close(done); forever(c, test.head, test.again) }()
				if n, err := c.TryNumber(); err == nil {
					t.Errorf("the server answers %d", n)
				}
				result := c.End()
				<-done
				check(t, result, test.want)
			} else {
				_, _ = c.Stdin.Write(test.head) // the other side may have had enough before its end
				go func() {
					timer := time.NewTimer(env.Patience / 3)
					defer timer.Stop()
					<-timer.C
					_ = c.Stdin.Close() // for what waits for more
				}()
				if n, err := c.TryNumber(); err == nil {
					t.Errorf("the server answers %d", n)
				}
				check(t, c.End(), test.want)
			}
			if got := s.Run("info", path); got.Code == 0 {
				t.Errorf("the path is valid: %s", got.Stdout)
			}
		})
	}
	bystander.Send(env.ServeQueryValidPaths, 0, 0, []string{kept})
	if got := bystander.Strings(); len(got) != 1 {
		t.Errorf("the bystander is answered %q", got)
	}
	env.Eventually(t, "no more sessions are there", func() (bool, error) { return len(sessions(t, s)) == 1, nil })
	env.Eventually(t, "no more descriptors are open", func() (bool, error) { return descriptors(t, p) <= before, nil })
	if list := locks(t, s); len(list) > 0 {
		t.Errorf("locks are left: %v", list)
	}
	if got := s.Run("verify"); got.Code != 0 {
		t.Errorf("verify: %s", got.Stderr)
	}
	t.Logf("the daemon's peak: %d MiB resident", peak(t, p)>>20)
	if got := peak(t, p); got > 400<<20 {
		t.Errorf("the daemon had %d MiB resident", got>>20)
	}
}

func check(t *testing.T, result env.Result, want string) {
	t.Helper()
	if result.Code != 1 || !strings.HasPrefix(result.Stderr, "error: ") || !strings.Contains(result.Stderr, want) {
		t.Errorf("serve exited with %d: %q; want an error with %q", result.Code, result.Stderr, want)
	}
}

func storePathAt(i int) string {
	var sum [20]byte
	binary.LittleEndian.PutUint64(sum[:], uint64(i))
	return "/nix/store/" + nix32(sum[:]) + "-p"
}

// lines gives so many bytes of text without two equal lines: new to the store, and well compressible.
type lines struct {
	left int64
	n    uint64
	buf  []byte
}

func (l *lines) Read(p []byte) (int, error) {
	if l.left == 0 {
		return 0, io.EOF
	}
	if len(l.buf) == 0 {
		l.buf = l.buf[:0]
		for range 1000 {
			l.n++
			l.buf = fmt.Appendf(l.buf, "%016x the quick brown fox jumps over the lazy dog\n", l.n*0x9e3779b97f4a7c15)
		}
	}
	n := copy(p[:min(int64(len(p)), l.left)], l.buf)
	l.buf = l.buf[n:]
	l.left -= int64(n)
	return n, nil
}

// A NAR of any size goes in and out in bounded memory: 20 GB in the long form.
func TestLargeNAR(t *testing.T) {
	t.Parallel()
	size := int64(512 << 20)
	if env.Long().Err() == nil {
		size = 20 << 30
	}
	s := env.NewStore(t)
	p := daemon(t, s, "ENV:GOMEMLIMIT=256MiB")
	head := env.Wire("nix-archive-1", "(", "type", "regular", "contents", int(size))
	tail := env.Wire(")") // the size is a multiple of 8
	narSize := int64(len(head)) + size + int64(len(tail))
	archive := func() io.Reader {
		return io.MultiReader(bytes.NewReader(head), &lines{left: size}, bytes.NewReader(tail))
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, archive()); err != nil {
		t.Fatal(err)
	}
	path := storePath("large")
	c := env.StartServe(t, s.Command("serve", "--write"))
	c.Send(addRequest(path, hex.EncodeToString(sum.Sum(nil)), int(narSize)))
	begun := time.Now()
	if _, err := io.CopyBuffer(c.Stdin, archive(), make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if n := c.Number(); n != 1 {
		t.Errorf("the server answers %d", n)
	}
	in := time.Since(begun)
	afterIn := peak(t, p)
	begun = time.Now()
	c.Send(env.ServeDumpStorePath, path)
	c.Skip(narSize)
	out := time.Since(begun)
	if result := c.End(); result.Code != 0 {
		t.Errorf("serve exited with %d: %s", result.Code, result.Stderr)
	}
	t.Logf("%d MiB with GOMEMLIMIT=256MiB: in %.1f s, peak %d MiB resident; out %.1f s, peak %d MiB", size>>20, in.Seconds(), afterIn>>20, out.Seconds(), peak(t, p)>>20)
	if got := peak(t, p); got > 320<<20 {
		t.Errorf("the daemon had %d MiB resident; want at most 320", got>>20)
	}
}
