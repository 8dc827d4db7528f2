package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// meter shows how far long work has got: as a line that is drawn again and again on a terminal, as a line now and then
// elsewhere if the user wants to see progress there too. The methods of nil do nothing, and all may be called concurrently.
type meter struct {
	p        *process
	what     string
	terminal bool
	stop     chan struct{}
	stopped  sync.WaitGroup

	mu      sync.Mutex // guards the rest
	begun   time.Time
	done    int64
	total   int64 // 0 if not known
	items   int64
	ofItems int64  // 0 if not known
	item    string // the present one
	unit    string // "" for bytes
	past    []sample
	visible bool
}

// sample is how far it was at some time.
type sample struct {
	at   time.Time
	done int64
}

const (
	redrawEvery = 100 * time.Millisecond
	tellEvery   = 2 * time.Second
	// rateOver is the time of which the rate is the average.
	rateOver = 5 * time.Second
)

// meter begins to show progress, until close. It is nil if nobody is to see it.
func (p *process) meter(what string) *meter {
	terminal := isTerminal(p.stderr) && p.getenv("TERM") != "dumb"
	if p.quiet || !terminal && !p.showProgress {
		return nil
	}
	m := &meter{p: p, what: what, terminal: terminal, stop: make(chan struct{}), begun: time.Now()}
	m.past = []sample{{m.begun, 0}}
	m.stopped.Go(m.run)
	return m
}

func (m *meter) run() {
	every := tellEvery
	if m.terminal {
		every = redrawEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			m.show(now)
		case <-m.stop:
			return
		}
	}
}

// close takes the line away.
func (m *meter) close() {
	if m == nil {
		return
	}
	close(m.stop)
	m.stopped.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clear()
}

// add counts bytes, or what setUnit says.
func (m *meter) add(n int64) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done += n
}

// set says how far it has got, and how far it is to go.
func (m *meter) set(done, total int64) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done, m.total = done, total
}

func (m *meter) setTotal(total int64) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.total = total
}

// setItems says how many items there are to be.
func (m *meter) setItems(total int64) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ofItems = total
}

// setUnit says what is counted, in the plural.
func (m *meter) setUnit(unit string) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unit = unit
}

// at says which item the work is at.
func (m *meter) at(item string) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.item = item
}

// finished counts an item.
func (m *meter) finished() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.items++
}

func (m *meter) show(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	line := m.line(now)
	if !m.terminal {
		m.p.say("%s\n", line)
		return
	}
	m.visible = true
	m.p.say("\r%s\x1b[K", fit(line, m.p.columns(m.p.stderr)-1))
}

// clear takes the line away until it is drawn again. m.mu is held.
func (m *meter) clear() {
	if m.visible {
		m.p.say("\r\x1b[K")
		m.visible = false
	}
}

// fit shortens a line to a width.
func fit(line string, width int) string {
	if utf8.RuneCountInString(line) <= width {
		return line
	}
	runes := []rune(line)
	return string(runes[:max(width, 0)])
}

// line says how far it is: "import  1.2 GiB of 3.4 GiB  35%  120 MiB/s  0:19 left  34 paths  hello-2.12". m.mu is held.
func (m *meter) line(now time.Time) string {
	rate := m.rate(now)
	number, perSecond := sizeText, " %s/s"
	if m.unit != "" {
		number = func(n int64) string { return fmt.Sprint(n) }
	}
	parts := []string{m.what}
	switch {
	case m.total > 0:
		parts = append(parts, number(m.done)+" of "+number(m.total), fmt.Sprintf("%d%%", min(100, 100*m.done/m.total)))
	default:
		parts = append(parts, number(m.done))
	}
	if m.unit != "" {
		parts[1] += " " + m.unit
	}
	parts = append(parts, fmt.Sprintf(perSecond, number(int64(rate)))[1:])
	if left := m.total - m.done; left > 0 && rate > 0 {
		parts = append(parts, clock(time.Duration(float64(left)/rate*float64(time.Second)))+" left")
	} else {
		parts = append(parts, clock(now.Sub(m.begun)))
	}
	switch {
	case m.ofItems > 0:
		parts = append(parts, fmt.Sprintf("%d of %s", m.items, countText(m.ofItems, "path")))
	case m.items > 0:
		parts = append(parts, countText(m.items, "path"))
	}
	if m.item != "" {
		parts = append(parts, printable(m.item))
	}
	return strings.Join(parts, "  ")
}

// rate is the average of the last seconds, in units per second. m.mu is held.
func (m *meter) rate(now time.Time) float64 {
	m.past = append(m.past, sample{now, m.done})
	first := 0
	for first+2 < len(m.past) && now.Sub(m.past[first+1].at) >= rateOver {
		first++
	}
	m.past = m.past[first:]
	took := now.Sub(m.past[0].at).Seconds()
	if took <= 0 {
		return 0
	}
	return float64(m.done-m.past[0].done) / took
}

// clock spells a duration as 0:09, 12:34 or 1:02:03.
func clock(d time.Duration) string {
	s := int64(d.Round(time.Second) / time.Second)
	if s < 3600 {
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	}
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}

// reader counts what is read.
func (m *meter) reader(r io.Reader) io.Reader {
	if m == nil {
		return r
	}
	return &meteredReader{r, m}
}

type meteredReader struct {
	r io.Reader
	m *meter
}

func (r *meteredReader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	r.m.add(int64(n))
	return n, err
}

// writer counts what is written.
func (m *meter) writer(w io.Writer) io.Writer {
	if m == nil {
		return w
	}
	return &meteredWriter{w, m}
}

type meteredWriter struct {
	w io.Writer
	m *meter
}

func (w *meteredWriter) Write(b []byte) (int, error) {
	n, err := w.w.Write(b)
	w.m.add(int64(n))
	return n, err
}

// beside returns a writer for results that may go to the same terminal as the progress.
func (m *meter) beside(w io.Writer) io.Writer {
	if m == nil || !m.terminal {
		return w
	}
	return &besideWriter{w, m}
}

type besideWriter struct {
	w io.Writer
	m *meter
}

func (w *besideWriter) Write(b []byte) (int, error) {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	w.m.clear()
	return w.w.Write(b)
}

// clearLine takes the line away until it is drawn again.
func (m *meter) clearLine() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clear()
}
