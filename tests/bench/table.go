package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// verdict is what came out of a row.
type verdict string

const (
	met         verdict = "met"
	missed      verdict = "MISSED"
	informative verdict = "-"          // it has no aim
	unmeasured  verdict = "unmeasured" // a sample is missing
)

// outcome is a row with its figures: medians, and ratios of medians. What could not be measured is NaN.
type outcome struct {
	row

	ours, theirs    float64
	ratio, cpu      float64
	lowest, highest float64 // the ratios of single rounds
	verdict         verdict
}

// evaluate computes what came out of a row.
func evaluate(r row, s samples) outcome {
	ours, theirs := s[r.series][narfs], s[r.series][r.theirs]
	o := outcome{
		row: r, ours: median(ours, r.unit.of), theirs: median(theirs, r.unit.of),
		ratio: math.NaN(), cpu: math.NaN(), lowest: math.NaN(), highest: math.NaN(),
	}
	reached := o.ours
	if r.theirs != "" {
		o.ratio = r.divide(o.ours, o.theirs)
		if r.unit == inSeconds {
			o.cpu = r.divide(median(ours, sample.cpu), median(theirs, sample.cpu))
		}
		for i := range min(len(ours), len(theirs)) {
			ratio := r.divide(r.unit.of(ours[i]), r.unit.of(theirs[i]))
			if i == 0 || ratio < o.lowest {
				o.lowest = ratio
			}
			if i == 0 || ratio > o.highest {
				o.highest = ratio
			}
		}
		reached = o.ratio
	}
	switch {
	case math.IsNaN(reached):
		o.verdict = unmeasured
	case r.aim == aim{}:
		o.verdict = informative
	case r.aim.atLeast && reached >= r.aim.value, !r.aim.atLeast && reached <= r.aim.value:
		o.verdict = met
	default:
		o.verdict = missed
	}
	return o
}

// divide returns ours to theirs or, for a speed, theirs to ours.
func (r row) divide(ours, theirs float64) float64 {
	if r.aim.atLeast {
		ours, theirs = theirs, ours
	}
	if theirs == 0 {
		return math.NaN()
	}
	return ours / theirs
}

// of returns the figure of a sample.
func (u unit) of(s sample) float64 {
	switch u {
	case inSeconds:
		return s.Wall
	case inAnonymous:
		return float64(s.Anon)
	default:
		return float64(s.Bytes)
	}
}

// median returns the middle figure, NaN without samples.
func median(list []sample, of func(sample) float64) float64 {
	if len(list) == 0 {
		return math.NaN()
	}
	figures := make([]float64, len(list))
	for i, s := range list {
		figures[i] = of(s)
	}
	slices.Sort(figures)
	middle := len(figures) / 2
	if len(figures)%2 == 1 {
		return figures[middle]
	}
	return (figures[middle-1] + figures[middle]) / 2
}

// text writes a figure for people.
func (u unit) text(figure float64) string {
	switch {
	case math.IsNaN(figure):
		return "?"
	case u == inSeconds && figure < 1:
		return fmt.Sprintf("%.0f ms", figure*1e3)
	case u == inSeconds:
		return fmt.Sprintf("%.2f s", figure)
	default:
		return fmt.Sprintf("%.1f MB", figure/1e6)
	}
}

func (r row) aimText() string {
	if r.aim == (aim{}) {
		return ""
	}
	sign := "≤"
	if r.aim.atLeast {
		sign = "≥"
	}
	if r.theirs == "" {
		return sign + " " + r.unit.text(r.aim.value)
	}
	return sign + " " + ratioText(r.aim.value)
}

func ratioText(ratio float64) string {
	if math.IsNaN(ratio) {
		return ""
	}
	return fmt.Sprintf("%.2fx", ratio)
}

// printTable prints what came out of the rows, then what failed and what is worth knowing.
func printTable(w io.Writer, list []row, res *results) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var text strings.Builder
	text.WriteString("row\twhat\tours\tagainst\ttheirs\tratio\trounds\tCPU\taim\n")
	tally := map[verdict]int{}
	for _, r := range list {
		o := evaluate(r, res.Samples)
		tally[o.verdict]++
		theirs, rounds := "", ""
		if r.theirs != "" {
			theirs = r.unit.text(o.theirs)
		}
		if o.lowest < o.highest {
			rounds = fmt.Sprintf("%.2f-%.2f", o.lowest, o.highest)
		}
		_, _ = fmt.Fprintf(&text, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.series, r.what, r.unit.text(o.ours),
			r.theirs, theirs, ratioText(o.ratio), rounds, ratioText(o.cpu), r.aimText(), o.verdict)
	}
	_, _ = io.WriteString(tw, text.String())
	if err := tw.Flush(); err != nil {
		return err
	}
	text.Reset()
	_, _ = fmt.Fprintf(&text, "\n%d met, %d missed, %d unmeasured\n", tally[met], tally[missed], tally[unmeasured])
	for _, failure := range res.Failures {
		_, _ = fmt.Fprintf(&text, "failed: %s\n", failure)
	}
	for _, note := range res.Notes {
		_, _ = fmt.Fprintf(&text, "note: %s\n", note)
	}
	_, err := io.WriteString(w, text.String())
	return err
}
