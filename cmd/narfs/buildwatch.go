package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/narfs/narfs/daemon/build"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
)

// buildWatch tells the user of builds: on a terminal by a line for each builder that runs and one for all, elsewhere by what they say.
type buildWatch struct {
	p       *process
	dir     nix.StoreDir
	m       *meter // nil if there is no progress to be seen
	plain   bool   // it is not on a terminal
	logs    bool   // print what builders say
	colours bool
	begun   time.Time

	hearing sync.Mutex // held while something is heard; guards closed; comes before those of m and here
	closed  bool

	mu       sync.Mutex // guards the rest; comes after that of m
	total    int        // builds that there are to be
	built    map[nix.StorePath]struct{}
	running  []*builder                     // in the order of their beginning
	failures map[nix.StorePath]build.Result // for reasons of their own
	told     map[string]struct{}            // causes of failures
}

// builder is one that runs.
type builder struct {
	path  nix.StorePath
	name  string
	phase string
	line  string // the last one that it said
	begun time.Time
}

func (p *process) watchBuilds(dir nix.StoreDir, total int, logs bool) *buildWatch {
	w := &buildWatch{
		p: p, dir: dir, total: total, colours: p.colours(p.stderr), begun: time.Now(), built: map[nix.StorePath]struct{}{},
		failures: map[nix.StorePath]build.Result{}, told: map[string]struct{}{},
	}
	w.m = p.beginMeter(&meter{lines: w.lines})
	w.plain = w.m == nil || !w.m.terminal
	w.logs = logs || w.plain && !p.quiet
	return w
}

// close takes the progress away, hears nothing any more, and returns what has failed for reasons of its own.
func (w *buildWatch) close() []build.Result {
	w.hearing.Lock()
	w.closed = true
	w.hearing.Unlock()
	w.m.close()
	return slices.Collect(maps.Values(w.failures))
}

// say prints lines of text, above the progress.
func (w *buildWatch) say(text string) {
	if w.plain {
		w.p.say("%s", text)
	} else {
		w.m.print(text)
	}
}

// hear is told what happens.
func (w *buildWatch) hear(e build.Event) {
	w.hearing.Lock()
	defer w.hearing.Unlock()
	if w.closed {
		return // of what was given up
	}
	if text := w.take(e); text != "" {
		w.say(text)
	}
}

// take keeps what happens, and returns what is to be said about it.
func (w *buildWatch) take(e build.Event) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := slices.IndexFunc(w.running, func(b *builder) bool { return b.path == e.Path })
	switch e.Kind {
	case build.EventStarted:
		if at < 0 {
			w.running = append(w.running, &builder{path: e.Path, name: strings.TrimSuffix(e.Path.Name(), drv.Extension), begun: time.Now()})
		}
		if w.plain && !w.p.quiet {
			if e.Machine != "" {
				return fmt.Sprintf("building '%s' on '%s'\n", w.dir.Path(e.Path), printable(e.Machine))
			}
			return fmt.Sprintf("building '%s'\n", w.dir.Path(e.Path))
		}
	case build.EventLine:
		if at >= 0 && strings.TrimSpace(e.Line) != "" {
			w.running[at].line = e.Line
		}
		if w.logs || at < 0 { // said of a build that does not run, such as by which machine it cannot be done
			return strings.TrimSuffix(e.Path.Name(), drv.Extension) + "> " + logText(e.Line, w.colours) + "\n"
		}
	case build.EventPhase:
		if at >= 0 {
			w.running[at].phase, w.running[at].line = e.Line, ""
		}
	case build.EventEnded:
		if at >= 0 {
			w.running = slices.Delete(w.running, at, at+1)
			w.built[e.Path] = struct{}{}
		}
	case build.EventFailed:
		delete(w.built, e.Path)
		w.failures[e.Path] = *e.Why
		return w.failure(*e.Why)
	case build.EventOutput:
	}
	return ""
}

// tell says how something that was asked for has failed, unless it is known already.
func (w *buildWatch) tell(r build.Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !r.OK() {
		w.p.say("%s", w.failure(r))
	}
}

// failure returns what is to be said about a failure. w.mu is held.
func (w *buildWatch) failure(r build.Result) string {
	text := r.Err
	if _, known := w.told[r.Cause]; known {
		if text = strings.TrimSuffix(text, ": "+r.Cause); text == r.Err {
			return ""
		}
	} else if strings.Contains(r.Cause, build.ErrGivenUp.Error()) && len(w.told) > 0 {
		return ""
	}
	w.told[r.Cause] = struct{}{}
	return "narfs: " + logLines(forNarfs(text)) + "\n"
}

// forNarfs has a message name the command of narfs that shows the whole log.
func forNarfs(text string) string {
	return strings.ReplaceAll(text, "'"+build.LogCommand+" ", "'narfs log ")
}

// lines are those of the builders that run, as many as there is room for, and a last one for all: see meter.
func (w *buildWatch) lines(now time.Time, most int) (lines []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	shown := w.running
	if len(shown) > most-1 {
		shown = shown[:max(most-2, 0)]
	}
	for _, b := range shown {
		lines = append(lines, b.text(now))
	}
	if more := len(w.running) - len(shown); more > 0 && most > 1 {
		lines = append(lines, fmt.Sprintf("       … and %d more", more))
	}
	return append(lines, w.status(now))
}

// status says how far it is: "build  3 of 29 built  20 running  5 waiting  1 failed  0:12". w.mu is held.
func (w *buildWatch) status(now time.Time) string {
	built, failed, running := len(w.built), len(w.failures), len(w.running)
	waiting := max(w.total-built-failed-running, 0) // what nobody knew of before may come in addition
	parts := []string{"build", fmt.Sprintf("%d of %d built", built, built+failed+running+waiting)}
	for _, count := range []struct {
		n    int
		what string
	}{{running, "running"}, {waiting, "waiting"}, {failed, "failed"}} {
		if count.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count.n, count.what))
		}
	}
	return strings.Join(append(parts, clock(now.Sub(w.begun))), "  ")
}

// text is the line of a builder: "  0:12 hello-2.12 (buildPhase) the last line of its log".
func (b *builder) text(now time.Time) string {
	text := fmt.Sprintf("%6s %s", clock(now.Sub(b.begun)), b.name)
	if b.phase != "" {
		text += " (" + logText(b.phase, false) + ")"
	}
	if line := strings.TrimSpace(logText(b.line, false)); line != "" {
		text += " " + line
	}
	return text
}
