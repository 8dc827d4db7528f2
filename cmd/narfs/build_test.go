package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/narfs/narfs/daemon/build"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nixwire"
)

func TestLogText(t *testing.T) {
	for _, test := range []struct{ line, plain, coloured string }{
		{"plain", "plain", "plain"},
		{"a\tb", "a       b", "a       b"},
		{"漢字\tb", "漢字    b", "漢字    b"},
		{"10%\r20%\r30%", "30%", "30%"},
		{"dos\r", "dos", "dos"},
		{"\x1b[1;31mred\x1b[0m.", "red.", "\x1b[1;31mred\x1b[0m.\x1b[0m"},
		{"\x1b[2J\x1b[H\x1b[?1049h\x1b[3Aup", "up", "up"},
		{"\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b", "ab", "ab"},
		{"\x1bPdevice\x1b\\a\x1b_apc\x1b\\b", "ab", "ab"},
		{"\x1bc\x1b(B\x1b7a", "a", "a"},
		{"a\x1b", "a", "a"},
		{"a\x1b[12", "a12", "a12"},
		{"a\x1b]never ends", "a", "a"},
		{"\u009b31mC1", "31mC1", "31mC1"},
		{"\x07\b\x7f\x00bell", "bell", "bell"},
		{"a\xffb\xf0", "a?b?", "a?b?"},
		{"\u202eright to left\u2028\u200b", "right to left", "right to left"},
	} {
		if got := logText(test.line, false); got != test.plain {
			t.Errorf("logText(%q) = %q; want %q", test.line, got, test.plain)
		}
		if got := logText(test.line, true); got != test.coloured {
			t.Errorf("logText(%q) with colours = %q; want %q", test.line, got, test.coloured)
		}
	}
	if got, want := logLines("a\x1b[2J\nb\r\n\tc"), "a\nb\n        c"; got != want {
		t.Errorf("logLines = %q; want %q", got, want)
	}
}

func FuzzLogText(f *testing.F) {
	for _, seed := range []string{"plain", "\x1b[1;31mred\x1b[m", "\x1b]0;t\x07\x1b[", "a\rb\t\xff", "\u009b\u202e"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if got := logText(line, false); strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }) {
			t.Errorf("logText(%q) = %q", line, got)
		}
		got := logText(line, true)
		if rest := colour.ReplaceAllString(got, ""); strings.ContainsFunc(rest, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }) {
			t.Errorf("logText(%q) with colours = %q", line, got)
		}
		if strings.Contains(got, "\x1b") && !strings.HasSuffix(got, "\x1b[0m") {
			t.Errorf("logText(%q) with colours = %q; want them to end", line, got)
		}
	})
}

func TestWidth(t *testing.T) {
	if got := width("aü漢e\u0301😀"); got != 7 {
		t.Errorf("width = %d; want 7", got)
	}
	for columns, want := range map[int]string{-1: "", 0: "", 1: "a", 2: "a", 3: "a漢", 4: "a漢e\u0301", 9: "a漢e\u0301"} {
		if got := fit("a漢e\u0301", columns); got != want {
			t.Errorf("fit to %d = %q; want %q", columns, got, want)
		}
	}
}

// What is drawn stands where it stood, also when the terminal has become narrower, and text comes above it.
func TestMeterDraw(t *testing.T) {
	var out bytes.Buffer
	m := &meter{p: newProcess(nil, nil, nil, &out), terminal: true}
	for _, test := range []struct {
		said          string
		lines         []string
		columns, rows int
		want          string
	}{
		{"", []string{"one", "two", "three"}, 80, 24, "one\x1b[K\r\ntwo\x1b[K\r\nthree\x1b[J"},
		{"", []string{"one", "two", "three"}, 80, 24, ""},
		{"", []string{"1", "2"}, 80, 24, "\r\x1b[2A1\x1b[K\r\n2\x1b[J"},
		{"text\n", []string{"1", "2"}, 80, 24, "\r\x1b[1A\x1b[Jtext\n1\x1b[K\r\n2\x1b[J"},
		{"", []string{strings.Repeat("x", 40), "last"}, 80, 24, "\r\x1b[1A" + strings.Repeat("x", 40) + "\x1b[K\r\nlast\x1b[J"},
		{"", []string{"x", "last"}, 20, 24, "\r\x1b[2Ax\x1b[K\r\nlast\x1b[J"},
		{"", []string{"x", "last!"}, 20, 1, "\rx\x1b[K\r\nlast!\x1b[J"},
		{"end\n", nil, 20, 24, "\r\x1b[1A\x1b[Jend\n\x1b[J"},
		{"more\n", nil, 20, 24, "\x1b[Jmore\n\x1b[J"},
	} {
		out.Reset()
		m.said.WriteString(test.said)
		m.draw(test.lines, test.columns, test.rows)
		if diff := cmp.Diff(test.want, out.String()); diff != "" {
			t.Errorf("draw(%q) after %q (-want +got):\n%s", test.lines, test.said, diff)
		}
	}
	// What is said does not wait for ever.
	out.Reset()
	m.print(strings.Repeat("x", maxSaid))
	if out.Len() > 0 {
		t.Errorf("%d bytes before it is time", out.Len())
	}
	if m.print("y"); out.Len() < maxSaid {
		t.Errorf("%d bytes when it is too much", out.Len())
	}
}

func drvPath(t *testing.T, i int, name string) nix.StorePath {
	t.Helper()
	p, err := nix.ParseBaseName(fmt.Sprintf("%032d-%s.drv", i, name))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newWatch(total int) *buildWatch {
	p := newProcess(nil, nil, nil, new(bytes.Buffer))
	return p.watchBuilds(nix.DefaultStoreDir, total, false)
}

func TestBuildLines(t *testing.T) {
	w := newWatch(9)
	w.begun = time.Unix(1000, 0)
	now := w.begun.Add(75 * time.Second)
	if got := w.lines(now, 24); len(got) != 1 || got[0] != "build  0 of 9 built  9 waiting  1:15" {
		t.Errorf("lines before = %q", got)
	}
	for i := range 6 {
		p := drvPath(t, i, fmt.Sprint("hello-", i))
		w.take(build.Event{Path: p, Kind: build.EventStarted})
		w.take(build.Event{Path: p, Kind: build.EventStarted}) // who joins hears it again
		w.running[i].begun = w.begun.Add(time.Duration(10*i) * time.Second)
	}
	w.take(build.Event{Path: drvPath(t, 0, "hello-0"), Kind: build.EventLine, Line: "line \x1b[2J1"})
	w.take(build.Event{Path: drvPath(t, 0, "hello-0"), Kind: build.EventLine, Line: " "})
	w.take(build.Event{Path: drvPath(t, 1, "hello-1"), Kind: build.EventPhase, Line: "build\x1b[31mPhase"})
	w.take(build.Event{Path: drvPath(t, 5, "hello-5"), Kind: build.EventEnded})
	w.take(build.Event{Path: drvPath(t, 4, "hello-4"), Kind: build.EventEnded})
	why := build.Result{Status: nixwire.PermanentFailure, Err: "it failed", Cause: "it failed"}
	w.take(build.Event{Path: drvPath(t, 4, "hello-4"), Kind: build.EventFailed, Why: &why})
	status := "build  1 of 9 built  4 running  3 waiting  1 failed  1:15"
	rows := []string{"  1:15 hello-0 line 1", "  1:05 hello-1 (buildPhase)", "  0:55 hello-2", "  0:45 hello-3"}
	for most, want := range map[int][]string{
		24: append(rows[:4:4], status), 5: append(rows[:4:4], status),
		4: append(rows[:2:2], "       … and 2 more", status), 2: {"       … and 4 more", status}, 1: {status},
	} {
		if diff := cmp.Diff(want, w.lines(now, most)); diff != "" {
			t.Errorf("at most %d lines (-want +got):\n%s", most, diff)
		}
	}
}

// A failure is told once, and what only follows from it is told in short.
func TestBuildFailures(t *testing.T) {
	w := newWatch(3)
	bad, why := drvPath(t, 1, "bad"), "builder for 'x' failed;\nlast 1 log lines:\n> \x1b[2Jno\nFor full logs, run 'nix log x'."
	failed := build.Result{Status: nixwire.PermanentFailure, Err: why + "\nnote: kept", Cause: why}
	want := "narfs: builder for 'x' failed;\nlast 1 log lines:\n> no\nFor full logs, run 'narfs log x'.\nnote: kept\n"
	if got := w.take(build.Event{Path: bad, Kind: build.EventFailed, Why: &failed}); got != want {
		t.Errorf("a failure = %q; want %q", got, want)
	}
	given := fmt.Sprintf("build of 'y' was interrupted: %v", build.ErrGivenUp)
	for _, test := range []struct {
		result build.Result
		want   string
	}{
		{failed, ""},
		{build.Result{Status: nixwire.DependencyFailed, Err: "1 dependencies of 'z' failed to build: " + why, Cause: why}, "narfs: 1 dependencies of 'z' failed to build\n"},
		{build.Result{Status: nixwire.MiscFailure, Err: given, Cause: given}, ""},
		{build.Result{Status: nixwire.MiscFailure, Err: "another", Cause: "another"}, "narfs: another\n"},
	} {
		if got := w.failure(test.result); got != test.want {
			t.Errorf("failure(%q) = %q; want %q", test.result.Err, got, test.want)
		}
	}
	if got := w.close(); len(got) != 1 || got[0].Cause != why {
		t.Errorf("close = %+v; want the failure", got)
	}
	if w.hear(build.Event{Path: bad, Kind: build.EventStarted}); len(w.running) > 0 {
		t.Error("something is heard after the end")
	}
}

func TestBuildExit(t *testing.T) {
	result := func(s nixwire.Status) build.Result { return build.Result{Status: s} }
	wrong := build.Result{Status: nixwire.OutputRejected, WrongHash: true}
	for _, test := range []struct {
		failures []build.Result
		results  []build.Result
		want     int
	}{
		{nil, []build.Result{result(nixwire.Built), result(nixwire.AlreadyValid)}, 0},
		{[]build.Result{result(nixwire.PermanentFailure)}, []build.Result{result(nixwire.Built)}, 0}, // of what somebody else wanted
		{nil, []build.Result{result(nixwire.Built), result(nixwire.PermanentFailure)}, 100},
		{[]build.Result{result(nixwire.TransientFailure)}, []build.Result{result(nixwire.DependencyFailed)}, 100},
		{nil, []build.Result{result(nixwire.OutputRejected)}, 100},
		{nil, []build.Result{result(nixwire.LogLimitExceeded)}, 100},
		{[]build.Result{result(nixwire.TimedOut)}, []build.Result{result(nixwire.DependencyFailed)}, 101},
		{nil, []build.Result{wrong}, 102},
		{nil, []build.Result{result(nixwire.NotDeterministic)}, 104},
		{nil, []build.Result{result(nixwire.NotDeterministic), wrong, result(nixwire.TimedOut)}, 111},
		{nil, []build.Result{result(nixwire.MiscFailure)}, 1},
	} {
		var args []buildArg
		for _, r := range test.results {
			args = append(args, buildArg{result: r})
		}
		if got := buildExit(test.failures, args); got != test.want {
			t.Errorf("buildExit(%v, %v) = %d; want %d", test.failures, test.results, got, test.want)
		}
	}
	if _, err := (&buildOptions{jobs: "x"}).settings(newProcess(nil, nil, nil, nil), nil); !errors.As(err, new(*usageError)) {
		t.Errorf("--max-jobs x: %v; want that the usage is wrong", err)
	}
}
