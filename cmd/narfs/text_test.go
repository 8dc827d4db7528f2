package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/daemon/lock"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/fs"
	"github.com/narfs/narfs/nar"
	"github.com/narfs/narfs/nar/cas"
)

func TestSizes(t *testing.T) {
	for _, test := range []struct {
		n           int64
		text, short string
	}{
		{0, "0 B", "0"},
		{1, "1 B", "1"},
		{1023, "1023 B", "1023"},
		{1024, "1.0 KiB", "1.0K"},
		{1536, "1.5 KiB", "1.5K"},
		{10 << 10, "10 KiB", "10K"},
		{1<<20 - 1, "1.0 MiB", "1.0M"},
		{1023<<10 + 100, "1023 KiB", "1023K"},
		{5 << 30, "5.0 GiB", "5.0G"},
		{1 << 60, "1.0 EiB", "1.0E"},
		{1<<63 - 1, "8.0 EiB", "8.0E"},
		{-2048, "-2.0 KiB", "-2.0K"},
	} {
		if got := sizeText(test.n); got != test.text {
			t.Errorf("sizeText(%d) = %q; want %q", test.n, got, test.text)
		}
		if got := shortSize(test.n); got != test.short {
			t.Errorf("shortSize(%d) = %q; want %q", test.n, got, test.short)
		}
	}
	if got := percentText(1, 3); got != "33.3%" {
		t.Errorf("percentText(1, 3) = %q", got)
	}
	if got := percentText(1, 0); got != "-" {
		t.Errorf("percentText(1, 0) = %q", got)
	}
	if got := countText(1, "path") + ", " + countText(0, "path"); got != "1 path, 0 paths" {
		t.Errorf("countText of 1 and 0 = %q", got)
	}
}

func TestClock(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0:00", 400 * time.Millisecond: "0:00", 9 * time.Second: "0:09", 61 * time.Second: "1:01",
		time.Hour: "1:00:00", 25*time.Hour + 61*time.Second: "25:01:01",
	} {
		if got := clock(d); got != want {
			t.Errorf("clock(%v) = %q; want %q", d, got, want)
		}
	}
}

func TestColumns(t *testing.T) {
	names := []string{"a", "bb", "ccc", "dddd", "e", "ff", "g"}
	widths := []int{1, 2, 3, 4, 1, 2, 1}
	for _, test := range []struct {
		width int
		want  string
	}{
		{0, "a\nbb\nccc\ndddd\ne\nff\ng\n"},
		{100, "a  bb  ccc  dddd  e  ff  g\n"},
		{14, "a    dddd  g\nbb   e\nccc  ff\n"},
		{8, "a     e\nbb    ff\nccc   g\ndddd\n"},
		{3, "a\nbb\nccc\ndddd\ne\nff\ng\n"},
	} {
		var got strings.Builder
		if err := writeColumns(&got, names, widths, test.width); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, got.String()); diff != "" {
			t.Errorf("writeColumns to width %d (-want +got):\n%s", test.width, diff)
		}
	}
	var none strings.Builder
	if err := writeColumns(&none, nil, nil, 80); err != nil || none.String() != "" {
		t.Errorf("writeColumns of nothing = %q, %v", none.String(), err)
	}
}

// BenchmarkColumns guards against work that grows with the square of the number of names.
func BenchmarkColumns(b *testing.B) {
	many := make([]string, 50_000)
	sizes := make([]int, len(many))
	for i := range many {
		sizes[i] = 1 + 40*min(i, 1)
		many[i] = strings.Repeat("x", sizes[i])
	}
	for b.Loop() {
		if err := writeColumns(io.Discard, many, sizes, 200); err != nil {
			b.Fatal(err)
		}
	}
}

func TestColours(t *testing.T) {
	c := parseColours("di=01;35:*.gz=31:bad=x;y:ex=0:ln=target")
	for _, test := range []struct {
		e    entry
		want string
	}{
		{entry{name: "dir", typ: nar.TypeDirectory}, "\x1b[01;35mdir\x1b[0m"},
		{entry{name: "link", typ: nar.TypeSymlink}, "\x1b[01;36mlink\x1b[0m"},
		{entry{name: "a.gz", typ: nar.TypeRegular}, "\x1b[31ma.gz\x1b[0m"},
		{entry{name: "plain", typ: nar.TypeRegular}, "plain"},
		{entry{name: "run", typ: nar.TypeRegular, executable: true}, "run"},
	} {
		if got := c.paint(&test.e, test.e.name); got != test.want {
			t.Errorf("paint(%s) = %q; want %q", test.e.name, got, test.want)
		}
	}
}

func TestPrintable(t *testing.T) {
	for name, want := range map[string]string{
		"plain": "plain", "ü ß": "ü ß", "a\nb": "a?b", "\x1b[31m": "?[31m", "\xff": "?", "\u009b1m": "?1m", "\x7f": "?",
	} {
		if got := printable(name); got != want {
			t.Errorf("printable(%q) = %q; want %q", name, got, want)
		}
	}
}

func TestMeterLine(t *testing.T) {
	begun := time.Unix(1000, 0)
	at := func(s int) time.Time { return begun.Add(time.Duration(s) * time.Second) }
	m := &meter{what: "import", begun: begun, past: []sample{{begun, 0}}}
	m.add(10 << 20)
	if got, want := m.line(at(1)), "import  10 MiB  10 MiB/s  0:01"; got != want {
		t.Errorf("line = %q; want %q", got, want)
	}
	m.setTotal(100 << 20)
	m.add(10 << 20)
	m.finished()
	m.at("hello\x1b")
	if got, want := m.line(at(2)), "import  20 MiB of 100 MiB  20%  10 MiB/s  0:08 left  1 path  hello?"; got != want {
		t.Errorf("line = %q; want %q", got, want)
	}
	// The rate is that of the last seconds.
	if got, want := m.line(at(20)), "import  20 MiB of 100 MiB  20%  0 B/s  0:20  1 path  hello?"; got != want && !strings.Contains(got, " left") {
		t.Errorf("line = %q; want %q, or one with little speed", got, want)
	}
	m.set(100<<20, 100<<20)
	if got := m.line(at(21)); !strings.Contains(got, "  100%  ") {
		t.Errorf("line at the end = %q; want 100%%", got)
	}
	packs := &meter{what: "compact", begun: begun, past: []sample{{begun, 0}}, unit: "packs"}
	packs.set(2, 8)
	if got, want := packs.line(at(2)), "compact  2 of 8 packs  25%  1/s  0:06 left"; got != want {
		t.Errorf("line = %q; want %q", got, want)
	}
	var none *meter // of who wants no progress
	none.add(1)
	none.set(1, 2)
	none.at("x")
	none.finished()
	none.close()
	if w := none.writer(io.Discard); w != io.Discard {
		t.Errorf("writer of no meter = %v; want the same writer", w)
	}
	if got := fit("äbcdef", 3); got != "äbc" {
		t.Errorf("fit = %q; want äbc", got)
	}
}

func TestHelperArgs(t *testing.T) {
	for _, test := range []struct {
		args []string
		want []string
	}{
		{[]string{"/state", "/mnt"}, []string{"mount", "--background", "--state=/state", "--", "/mnt"}},
		{[]string{"none", "/mnt", "-o", "rw,xattr"}, []string{"mount", "--background", "--options=rw,xattr", "--", "/mnt"}},
		{[]string{"narfs", "/mnt", "-s", "-n", "-vw", "-t", "fuse.narfs", "-oro"}, []string{"mount", "--background", "--options=ro", "--", "/mnt"}},
		{[]string{"--", "/state", "/mnt"}, []string{"mount", "--background", "--state=/state", "--", "/mnt"}},
		{[]string{"/state", "/mnt", "-f"}, []string{"version", "--json"}},
		{[]string{"/state"}, nil},
		{[]string{"/state", "/mnt", "/more"}, nil},
		{[]string{"/state", "/mnt", "-o"}, nil},
		{[]string{"/state", "/mnt", "--bind"}, nil},
	} {
		got, err := helperArgs(test.args)
		if (err != nil) != (test.want == nil) || err == nil && cmp.Diff(test.want, got) != "" {
			t.Errorf("helperArgs(%q) = %q, %v; want %q", test.args, got, err, test.want)
		}
	}
	for _, test := range []struct {
		line string
		want bool
	}{
		{"mount.fuse.narfs none /mnt", true},
		{"mount.narfs", true},
		{"narfs /state /mnt -o rw", true},
		{"narfs none /mnt", true},
		{"narfs umount /mnt", false},
		{"narfs ls /nix/store/x", false},
		{"narfs none mnt", false},
		{"narfs", false},
	} {
		args := strings.Fields(test.line)
		if got := isMountHelper(args[0], args[1:]); got != test.want {
			t.Errorf("isMountHelper(%q) = %v; want %v", test.line, got, test.want)
		}
	}
}

func TestHints(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string // is part of it
	}{
		{errors.New("something"), ""},
		{hint(&lock.OwnedError{}, "the nearest one counts"), "the nearest one"},
		{&lock.OwnedError{}, "end it"},
		{fmt.Errorf("open: %w", cas.ErrIndex), "--rebuild-index"},
		{cas.ErrFormat, "version"},
		{fmt.Errorf("x: %w", cas.ErrCorrupt), "narfs repair"},
		{&store.InUseError{Referrers: true}, "--referrers"},
		{&store.InUseError{}, ""},
		{&store.NotValidError{}, "narfs ls"},
		{&store.MismatchError{}, "get it again"},
		{fs.ErrMounted, "umount"},
		{fs.ErrBusy, "--force"},
		{fmt.Errorf("umount: %w", syscall.EBUSY), "--force"},
		{fmt.Errorf("write: %w", syscall.ENOSPC), "narfs compact"},
	} {
		if got := hintFor(test.err); !strings.Contains(got, test.want) || test.want == "" && got != "" {
			t.Errorf("hintFor(%v) = %q; want %q in it", test.err, got, test.want)
		}
	}
}

func TestExitCode(t *testing.T) {
	interrupted, cancel := context.WithCancelCause(t.Context())
	cancel(errInterrupted)
	for _, test := range []struct {
		ended  bool
		err    error
		code   int
		stderr string
	}{
		{false, nil, exitDone, ""},
		{false, errors.New("broken"), exitFailed, "narfs: broken\n"},
		{false, hint(errors.New("broken"), "mend it"), exitFailed, "narfs: broken\nhint: mend it\n"},
		{false, usagef("bad %s", "flag"), exitUsage, "narfs: bad flag\nRun 'narfs --help' for the usage.\n"},
		{false, &exitError{7}, 7, ""},
		{false, fmt.Errorf("write: %w", syscall.EPIPE), exitFailed, ""},
		{true, errors.New("some consequence"), exitInterrupted, "narfs: interrupted\n"},
	} {
		var stderr bytes.Buffer
		p := newProcess(nil, nil, nil, &stderr)
		ctx := t.Context()
		if test.ended {
			ctx = interrupted
		}
		if got := p.exitCode(ctx, newRoot(p), test.err); got != test.code || stderr.String() != test.stderr {
			t.Errorf("exitCode(%v) = %d and %q; want %d and %q", test.err, got, &stderr, test.code, test.stderr)
		}
	}
}

// TestInterruptible: reading ends with the context, also when the source never gives anything.
func TestInterruptible(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	source, feed := io.Pipe()
	defer feed.Close() //nolint:errcheck // nothing to lose
	r, done := interruptible(ctx, source)
	defer done()
	go func() { _, _ = feed.Write([]byte("some")) }()
	buf := make([]byte, 4)
	if _, err := io.ReadFull(r, buf); err != nil || string(buf) != "some" {
		t.Fatalf("ReadFull = %q, %v; want some", buf, err)
	}
	go cancel(errInterrupted)
	if _, err := r.Read(buf); !errors.Is(err, errInterrupted) {
		t.Errorf("Read = %v; want errInterrupted", err)
	}
	if _, err := r.Read(buf); !errors.Is(err, errInterrupted) {
		t.Errorf("Read again = %v; want errInterrupted", err)
	}

	big := bytes.Repeat([]byte("0123456789"), 100_000)
	r, done = interruptible(t.Context(), bytes.NewReader(big))
	defer done()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, big) {
		t.Errorf("ReadAll = %d bytes, %v; want the %d that there are", len(got), err, len(big))
	}
	if n, err := r.Read(buf); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("Read at the end = %d, %v; want EOF", n, err)
	}
}

func TestTable(t *testing.T) {
	tab := &table{right: []bool{true, false, true}}
	tab.add("1", "one", "x")
	tab.add("1000", "ü", "")
	var got strings.Builder
	if err := tab.write(&got); err != nil {
		t.Fatal(err)
	}
	if want := "   1  one  x\n1000  ü\n"; got.String() != want {
		t.Errorf("table = %q; want %q", got.String(), want)
	}
}

func TestWrap(t *testing.T) {
	const text = "one two three four\n\n  indented lines stay as they are\nfive sixseveneightnine ten"
	const want = "one two\nthree four\n\n  indented lines stay as they are\nfive\nsixseveneightnine\nten"
	if got := wrap(text, 10); got != want {
		t.Errorf("wrap = %q; want %q", got, want)
	}
}
