package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	eastasian "golang.org/x/text/width"
)

// meter shows how far long work has got: as a line, or a few, that is drawn again and again on a terminal, as a line now and then
// elsewhere if the user wants to see progress there too. The methods of nil do nothing, and all may be called concurrently.
type meter struct {
	p        *process
	what     string
	terminal bool
	// lines returns what is to be seen, at most so many lines, the last of which must be there; mu is held.
	lines   func(now time.Time, most int) []string
	stop    chan struct{}
	stopped sync.WaitGroup

	mu      sync.Mutex // guards the rest
	begun   time.Time
	done    int64
	total   int64 // 0 if not known
	items   int64
	ofItems int64  // 0 if not known
	item    string // the present one
	unit    string // "" for bytes
	past    []sample
	drawn   []string        // that the terminal shows
	said    strings.Builder // waits to be written above these
}

// sample is how far it was at some time.
type sample struct {
	at   time.Time
	done int64
}

const (
	redrawEvery = 100 * time.Millisecond
	tellEvery   = 2 * time.Second
	// maxSaid is how much text waits for the next drawing.
	maxSaid = 64 << 10
	// rateOver is the time of which the rate is the average.
	rateOver = 5 * time.Second
)

// meter begins to show progress, until close. It is nil if nobody is to see it.
func (p *process) meter(what string) *meter {
	m := &meter{what: what}
	m.lines = func(now time.Time, _ int) []string { return []string{m.line(now)} }
	return p.beginMeter(m)
}

// beginMeter is meter for one that knows what to show.
func (p *process) beginMeter(m *meter) *meter {
	m.p, m.terminal = p, isTerminal(p.stderr) && p.getenv("TERM") != "dumb"
	if p.quiet || !m.terminal && !p.showProgress {
		return nil
	}
	m.stop, m.begun = make(chan struct{}), time.Now()
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
	columns, rows := m.p.size(m.p.stderr)
	lines := m.lines(now, max(rows-1, 1))
	if !m.terminal {
		m.p.say("%s\n", lines[len(lines)-1])
		return
	}
	for i, line := range lines {
		lines[i] = fit(line, columns-1)
	}
	m.draw(lines, columns, rows)
}

// draw has the terminal show lines in place of those that it shows, with what waits above them. m.mu is held.
func (m *meter) draw(lines []string, columns, rows int) {
	if slices.Equal(lines, m.drawn) && m.said.Len() == 0 {
		return
	}
	var b strings.Builder
	if len(m.drawn) > 0 {
		up := -1
		for _, line := range m.drawn {
			up += 1 + max(0, width(line)-1)/max(columns, 1) // it may have become narrower
		}
		b.WriteByte('\r')
		if up = min(up, rows-1); up > 0 {
			fmt.Fprintf(&b, "\x1b[%dA", up)
		}
	}
	if m.said.Len() > 0 {
		b.WriteString("\x1b[J" + m.said.String())
		m.said.Reset()
	}
	b.WriteString(strings.Join(lines, "\x1b[K\r\n"))
	b.WriteString("\x1b[J")
	m.drawn = lines
	m.p.say("%s", b.String())
}

// clear takes the lines away until they are drawn again. m.mu is held.
func (m *meter) clear() {
	if len(m.drawn) > 0 || m.said.Len() > 0 {
		columns, rows := m.p.size(m.p.stderr)
		m.draw(nil, columns, rows)
	}
}

// print writes lines of text to where the progress is seen, above it.
func (m *meter) print(text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.said.WriteString(text); m.said.Len() > maxSaid {
		m.clear()
	}
}

// fit shortens a line to the columns of a terminal.
func fit(line string, columns int) string {
	for i, r := range line {
		if columns -= runeWidth(r); columns < 0 {
			return line[:i]
		}
	}
	return line
}

// width is how many columns of a terminal a line takes.
func width(line string) (n int) {
	for _, r := range line {
		n += runeWidth(r)
	}
	return n
}

// runeWidth is how many columns of a terminal a character takes.
func runeWidth(r rune) int {
	if r < 0x300 {
		return 1
	}
	if kind := eastasian.LookupRune(r).Kind(); kind == eastasian.EastAsianWide || kind == eastasian.EastAsianFullwidth {
		return 2
	}
	if unicode.In(r, unicode.Mn, unicode.Me) {
		return 0
	}
	return 1
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
	return &meteredWriter{w, func(n int) { m.add(int64(n)) }}
}

// meteredWriter tells how much is written.
type meteredWriter struct {
	w    io.Writer
	tell func(n int)
}

func (w *meteredWriter) Write(b []byte) (int, error) {
	n, err := w.w.Write(b)
	w.tell(n)
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

// clearLine takes what is drawn away until it is drawn again.
func (m *meter) clearLine() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clear()
}
