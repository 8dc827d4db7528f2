package main

import (
	"bytes"
	"io"
	"runtime"
	"strings"
	"testing"
	"weak"
)

func TestRun(t *testing.T) {
	for _, test := range []struct {
		args   []string
		code   int
		stdout string // is part of it
		stderr string
	}{
		{args: nil, code: exitDone, stdout: "Usage:"},
		{args: []string{"--help"}, code: exitDone, stdout: "Usage:"},
		{args: []string{"help", "version"}, code: exitDone, stdout: "narfs version [flags]"},
		{args: []string{"help", "bogus"}, code: exitUsage, stderr: `unknown command "bogus"`},
		{args: []string{"--version"}, code: exitDone, stdout: "narfs "},
		{args: []string{"version"}, code: exitDone, stdout: "narfs "},
		{args: []string{"version", "--json"}, code: exitDone, stdout: `"version":`},
		{args: []string{"man"}, code: exitDone, stdout: ".TH"},
		{args: []string{"man", "version"}, code: exitDone, stdout: "narfs-version"},
		{args: []string{"completion", "bash"}, code: exitDone, stdout: "bash completion"},
		{args: []string{"bogus"}, code: exitUsage, stderr: `narfs: unknown command "bogus"`},
		{args: []string{"versio"}, code: exitUsage, stderr: `(did you mean "version"?)`},
		{args: []string{"--bogus"}, code: exitUsage, stderr: "narfs: unknown flag: --bogus"},
		{args: []string{"version", "--bogus"}, code: exitUsage, stderr: "Run 'narfs version --help'"},
		{args: []string{"version", "extra"}, code: exitUsage, stderr: `"extra"`},
		{args: []string{"man", "bogus"}, code: exitUsage, stderr: "bogus"},
		{args: []string{"man", "--dir", "/dev/null/x"}, code: exitFailed, stderr: "/dev/null"},
		{args: []string{"completion", "bogus"}, code: exitUsage, stderr: "bogus"},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), test.args, strings.NewReader(""), &stdout, &stderr)
			if code != test.code {
				t.Errorf("run(%q) = %d; want %d", test.args, code, test.code)
			}
			if !strings.Contains(stdout.String(), test.stdout) || !strings.Contains(stderr.String(), test.stderr) {
				t.Errorf("run(%q) printed %q and %q; want %q and %q in them", test.args, &stdout, &stderr, test.stdout, test.stderr)
			}
			if test.code == exitDone && stderr.Len() > 0 || test.code != exitDone && stdout.Len() > 0 {
				t.Errorf("run(%q) printed %q to stdout and %q to stderr", test.args, &stdout, &stderr)
			}
		})
	}
}

// A command leaves nothing behind in memory: the owner of a store does those of others, any number of them.
func TestCommandsAreForgotten(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"add", "--help"}, {"bogus"}} {
		done := func() weak.Pointer[process] {
			p := newProcess(args, strings.NewReader(""), io.Discard, io.Discard)
			p.run(t.Context())
			return weak.Make(p)
		}()
		runtime.GC()
		if done.Value() != nil {
			t.Errorf("narfs %q is still in memory after its end", args)
		}
	}
}
