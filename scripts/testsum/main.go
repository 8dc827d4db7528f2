// Testsum reads what go test -json prints and shows what a person wants to see
// of it: the line of each package, and all that a failed test printed.
//
//	go test -json ./... | testsum -o FILE
//
// It writes a tally to FILE for a script that sums up several runs, in lines of
// fields parted by tabs:
//
//	passed  N
//	failed  N
//	skipped N
//	skip    PACKAGE TEST REASON   (once for each skipped test)
//
// A test with subtests counts like each of them. A package that does not
// build, or fails outside its tests, counts as one failed test. It exits with 1
// if anything failed.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("testsum", flag.ContinueOnError)
	flags.SetOutput(stderr)
	file := flags.String("o", os.DevNull, "write the tally to this `file`")
	if flags.Parse(args) != nil || flags.NArg() > 0 {
		return 2
	}
	s := newSummary(stdout)
	err := s.read(stdin)
	if err == nil {
		err = os.WriteFile(*file, []byte(s.tally()), 0o644)
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "testsum: %v\n", err)
		return 1
	}
	if s.failed > 0 {
		return 1
	}
	return 0
}

// event is one line of go test -json; see go doc test2json.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output and build-fail
	Test        string
	Output      string
	FailedBuild string
}

// id names a test, or with an empty name what a package does outside its tests.
type id struct{ pkg, test string }

type skip struct {
	id

	reason string
}

type summary struct {
	out                     io.Writer
	passed, failed, skipped int
	skips                   []skip
	running                 map[id][]string // the lines that tests which have not ended printed
	failures                map[string]int  // by package
	builds                  map[string][]string
}

func newSummary(out io.Writer) *summary {
	return &summary{out: out, running: map[id][]string{}, failures: map[string]int{}, builds: map[string][]string{}}
}

func (s *summary) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Action == "" {
			s.print(lines.Text() + "\n") // the go command itself speaks in plain lines
			continue
		}
		s.add(e)
	}
	return lines.Err()
}

func (s *summary) add(e event) {
	switch {
	case e.Action == "build-output":
		s.builds[e.ImportPath] = append(s.builds[e.ImportPath], e.Output)
	case e.Test == "":
		s.addPackage(e)
	default:
		s.addTest(e)
	}
}

func (s *summary) addPackage(e event) {
	switch e.Action {
	case "output":
		switch line := strings.TrimSpace(e.Output); {
		case line == "PASS", line == "FAIL", strings.HasSuffix(line, "[no test files]"):
		default:
			s.print(e.Output)
		}
	case "fail":
		s.print(s.builds[e.FailedBuild]...)
		delete(s.builds, e.FailedBuild)
		for key, lines := range s.running { // a panic or a time-out ended them
			if key.pkg == e.Package {
				s.print("unfinished: " + key.test + "\n")
				s.print(lines...)
				delete(s.running, key)
			}
		}
		if s.failures[e.Package] == 0 {
			s.failed++
		}
	}
}

func (s *summary) addTest(e event) {
	key := id{e.Package, e.Test}
	switch e.Action {
	case "output":
		if !strings.HasPrefix(e.Output, "=== ") {
			s.running[key] = append(s.running[key], e.Output)
		}
		return
	case "pass":
		s.passed++
	case "fail":
		s.failed++
		s.failures[e.Package]++
		s.print(s.running[key]...)
	case "skip":
		s.skipped++
		s.skips = append(s.skips, skip{key, reason(s.running[key])})
	default: // run, pause, cont, start
		return
	}
	delete(s.running, key)
}

func (s *summary) print(lines ...string) {
	for _, line := range lines {
		_, _ = io.WriteString(s.out, line)
	}
}

// reason is the last thing that a skipped test logged, without the place
// where it did.
func reason(lines []string) string {
	last := "it gave no reason"
	for _, line := range lines {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "--- ") {
			continue
		}
		if place, rest, found := strings.Cut(line, ": "); found && strings.Contains(place, ".go:") {
			line = rest
		}
		last = line
	}
	return strings.ReplaceAll(last, "\t", " ")
}

func (s *summary) tally() string {
	var b strings.Builder
	fmt.Fprintf(&b, "passed\t%d\nfailed\t%d\nskipped\t%d\n", s.passed, s.failed, s.skipped)
	for _, skip := range s.skips {
		fmt.Fprintf(&b, "skip\t%s\t%s\t%s\n", skip.pkg, skip.test, skip.reason)
	}
	return b.String()
}
