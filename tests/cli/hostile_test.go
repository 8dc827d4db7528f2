package cli_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/narfs/narfs/tests/env"
)

// token is a string as NARs and export streams have it: its length, its bytes, zeros up to 8.
func token(s string) string {
	return length(uint64(len(s))) + s + strings.Repeat("\x00", -len(s)&7)
}

func tokens(list string) string {
	var b strings.Builder
	for s := range strings.FieldsSeq(list) {
		b.WriteString(token(s))
	}
	return b.String()
}

func length(n uint64) string { return string(binary.LittleEndian.AppendUint64(nil, n)) }

const anyPath = "/nix/store/00000000000000000000000000000000-any"

// Where a hostile length can stand. Behind it come zeros for as long as somebody reads.
func hostileLengths() map[string]string {
	const magic, dir = "nix-archive-1 ( type directory", "nix-archive-1 ( type directory entry ( name"
	return map[string]string{
		"magic":      "",
		"type":       tokens("nix-archive-1 ( type"),
		"entry":      tokens(magic),
		"name":       tokens(dir),
		"node":       tokens(dir + " a"),
		"target":     tokens("nix-archive-1 ( type symlink target"),
		"executable": tokens("nix-archive-1 ( type regular executable"),
	}
}

// endless gives what it is asked for: head and then again and again what next returns.
type endless struct {
	head string
	next func() []byte
	buf  []byte
}

// Read implements io.Reader.
func (e *endless) Read(p []byte) (int, error) {
	if e.head != "" {
		n := copy(p, e.head)
		e.head = e.head[n:]
		return n, nil
	}
	if len(e.buf) == 0 {
		e.buf = e.next()
	}
	n := copy(p, e.buf)
	e.buf = e.buf[n:]
	return n, nil
}

func zeros() func() []byte {
	b := make([]byte, 64<<10)
	return func() []byte { return b }
}

// manyEntries are the entries of a folder that never ends, 100 at a time.
func manyEntries() func() []byte {
	const at = "00000000"
	entry := []byte(tokens("entry ( name "+at+" node ( type regular contents") + token("") + tokens(") )"))
	i := 0
	var b []byte
	return func() []byte {
		b = b[:0]
		for range 100 {
			b = append(b, entry...)
			copy(b[len(b)-len(entry)+bytes.Index(entry, []byte(at)):], fmt.Sprintf("%08d", i))
			i++
		}
		return b
	}
}

// hostile is an input that must be refused.
type hostile struct {
	name string
	nar  func() io.Reader
	want string // in the error
	peak int64  // of memory, bytes; 0 for usual
	long bool
}

func hostileNARs() []hostile {
	static := func(s string) func() io.Reader { return func() io.Reader { return &endless{head: s, next: zeros()} } }
	list := []hostile{
		{
			name: "levels", want: "64",
			nar: static(tokens("nix-archive-1 ( type directory") + strings.Repeat(tokens("entry ( name a node ( type directory"), 100_000)),
		},
		{
			name: "entries", want: "more than", peak: 448 << 20, long: true,
			nar: func() io.Reader { return &endless{head: tokens("nix-archive-1 ( type directory"), next: manyEntries()} },
		},
		{
			name: "truncated", want: "ends early",
			nar: func() io.Reader {
				return strings.NewReader(tokens("nix-archive-1 ( type regular contents") + length(1<<40) + "and no more")
			},
		},
		{name: "contents of 2^63", want: "", nar: static(tokens("nix-archive-1 ( type regular contents") + length(1<<63))},
		{name: "contents of 2^64-1", want: "", nar: static(tokens("nix-archive-1 ( type regular contents") + length(1<<64-1))},
	}
	for place, head := range hostileLengths() {
		for _, n := range []uint64{1 << 20, 1 << 32, 1 << 40, 1<<63 - 1, 1 << 63, 1<<64 - 8, 1<<64 - 1} {
			list = append(list, hostile{name: fmt.Sprintf("%s of %#x", place, n), nar: static(head + length(n))})
		}
	}
	return list
}

// hostileStreams are export streams that are bad behind the NAR.
func hostileStreams() []hostile {
	nar := length(1) + tokens("nix-archive-1 ( type regular contents") + token("") + tokens(")") + length(0x4558494e)
	var list []hostile
	for place, head := range map[string]string{
		"magic":      length(1),
		"path":       nar,
		"references": nar + token(anyPath),
		"reference":  nar + token(anyPath) + length(1),
		"deriver":    nar + token(anyPath) + length(0),
		"signature":  nar + token(anyPath) + length(0) + token("") + length(1),
	} {
		for _, n := range []uint64{1 << 20, 1 << 32, 1 << 40, 1<<63 - 1, 1 << 63, 1<<64 - 1} {
			list = append(list, hostile{
				name: fmt.Sprintf("%s of %#x", place, n),
				nar:  func() io.Reader { return &endless{head: head + length(n), next: zeros()} },
			})
		}
	}
	return list
}

// usualPeak is more memory than a small import takes, and less than what a hostile length asks for.
const usualPeak = 192 << 20

// refused checks that a command refuses its input as it should: with an error, soon, and without taking memory for it.
func refused(t *testing.T, cmd *exec.Cmd, h hostile) {
	t.Helper()
	cmd.Stdin = h.nar()
	got := env.Run(t, cmd)
	if got.Code != 1 || !strings.HasPrefix(got.Stderr, "narfs: ") || !strings.Contains(got.Stderr, h.want) || got.Stdout != "" {
		t.Errorf("%q with %s = %+v; want exit code 1 and an error with %q", cmd.Args[1:], h.name, got, h.want)
	}
	if lines := strings.Count(got.Stderr, "\n"); lines > 2 || len(got.Stderr) > 1000 {
		t.Errorf("%q with %s says much:\n%.2000s", cmd.Args[1:], h.name, got.Stderr)
	}
	limit := h.peak
	if limit == 0 {
		limit = usualPeak
	}
	if peak := env.PeakMemory(cmd); peak > limit {
		t.Errorf("%q with %s took %d MiB of memory; want at most %d", cmd.Args[1:], h.name, peak>>20, limit>>20)
	} else if h.peak != 0 {
		t.Logf("%q with %s took %d MiB of memory: %s", cmd.Args[1:], h.name, peak>>20, got.Stderr)
	}
}

// TestHostileNARs: what is wrong with a NAR is said, whoever reads it, and memory is bounded.
func TestHostileNARs(t *testing.T) {
	s := env.NewStore(t)
	s.Must("add", "doc.go")
	for _, h := range hostileNARs() {
		t.Run(h.name, func(t *testing.T) {
			if h.long {
				env.Require(t, env.Long())
			}
			refused(t, s.Command("import", "--nar", "-", "--path", anyPath), h)
			stream := h
			stream.nar = func() io.Reader { return io.MultiReader(strings.NewReader(length(1)), h.nar()) }
			refused(t, s.Command("import"), stream)
			dest := filepath.Join(env.Dir(t), "restored")
			kept := h
			kept.peak = 0 // it keeps no entries
			refused(t, s.Command("restore", dest), kept)
			if h.long {
				if err := os.RemoveAll(dest); err != nil {
					t.Error(err)
				}
			}
		})
	}
	unharmed(t, s)
}

// TestHostileStreams: the same for what stands around the NARs of an export stream.
func TestHostileStreams(t *testing.T) {
	s := env.NewStore(t)
	s.Must("add", "doc.go")
	for _, h := range hostileStreams() {
		t.Run(h.name, func(t *testing.T) { refused(t, s.Command("import"), h) })
	}
	unharmed(t, s)
}

// TestHostileInfo: a file that should tell about a path is not read whole before it is looked at.
func TestHostileInfo(t *testing.T) {
	t.Parallel()
	s := env.NewStore(t)
	info := filepath.Join(env.Dir(t), "info")
	if err := errors.Join(os.WriteFile(info, nil, 0o600), os.Truncate(info, 1<<40)); err != nil {
		t.Fatal(err)
	}
	refused(t, s.Command("import", "--nar", "-", "--info", info), hostile{
		name: "an info of 1 TiB", nar: func() io.Reader { return strings.NewReader("") }, want: "longer than 64 MiB", peak: 320 << 20,
	})
}

// unharmed checks that a store has only what it had, and all of it.
func unharmed(t *testing.T, s *env.Store) {
	t.Helper()
	s.Must("verify")
	if got := s.Must("ls"); !strings.HasSuffix(got, "-doc.go") || strings.Contains(got, "\n") {
		t.Errorf("narfs ls = %q; want only what was added", got)
	}
	s.Must("compact")
	s.Must("verify")
}
