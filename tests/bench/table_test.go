package main

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func walls(list ...float64) []sample {
	all := make([]sample, len(list))
	for i, wall := range list {
		all[i] = sample{Wall: wall, User: wall / 2}
	}
	return all
}

func TestEvaluate(t *testing.T) {
	s := samples{
		"find":  {narfs: walls(3, 1, 2), ext4: walls(4, 4, 2)},
		"size":  {narfs: {{Bytes: 90}}, raw: {{Bytes: 100}}},
		"start": {narfs: walls(0.2, 0.4)},
		"half":  {narfs: walls(1)},
	}
	nan := math.NaN()
	for _, test := range []struct {
		row  row
		want outcome
	}{
		{row{series: "find", theirs: ext4, aim: atMost(0.5)}, outcome{ours: 2, theirs: 4, ratio: 0.5, cpu: 0.5, lowest: 0.25, highest: 1, verdict: met}},
		{row{series: "find", theirs: ext4, aim: atMost(0.49)}, outcome{ours: 2, theirs: 4, ratio: 0.5, cpu: 0.5, lowest: 0.25, highest: 1, verdict: missed}},
		{row{series: "find", theirs: ext4, aim: atLeast(2)}, outcome{ours: 2, theirs: 4, ratio: 2, cpu: 2, lowest: 1, highest: 4, verdict: met}},
		{row{series: "find", theirs: ext4, aim: atLeast(2.1)}, outcome{ours: 2, theirs: 4, ratio: 2, cpu: 2, lowest: 1, highest: 4, verdict: missed}},
		{row{series: "find", theirs: ext4}, outcome{ours: 2, theirs: 4, ratio: 0.5, cpu: 0.5, lowest: 0.25, highest: 1, verdict: informative}},
		{row{series: "size", theirs: raw, unit: inBytes, aim: atMost(0.9)}, outcome{ours: 90, theirs: 100, ratio: 0.9, cpu: nan, lowest: 0.9, highest: 0.9, verdict: met}},
		{row{series: "start", aim: atMost(0.31)}, outcome{ours: 0.3, theirs: nan, ratio: nan, cpu: nan, lowest: nan, highest: nan, verdict: met}},
		{row{series: "start", aim: atMost(0.29)}, outcome{ours: 0.3, theirs: nan, ratio: nan, cpu: nan, lowest: nan, highest: nan, verdict: missed}},
		{row{series: "half", theirs: ext4, aim: atMost(1)}, outcome{ours: 1, theirs: nan, ratio: nan, cpu: nan, lowest: nan, highest: nan, verdict: unmeasured}},
		{row{series: "none", aim: atMost(1)}, outcome{ours: nan, theirs: nan, ratio: nan, cpu: nan, lowest: nan, highest: nan, verdict: unmeasured}},
	} {
		test.want.row = test.row
		got := evaluate(test.row, s)
		if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(outcome{}, row{}, aim{}), cmpopts.EquateNaNs(), cmpopts.EquateApprox(0, 1e-9)); diff != "" {
			t.Errorf("evaluate(%+v): (-want +got)\n%s", test.row, diff)
		}
	}
}

func TestPrintTable(t *testing.T) {
	res := newResults()
	for _, wall := range []float64{0.2, 0.3} {
		res.add("find-warm", narfs, sample{Wall: wall, System: 0.1})
		res.add("find-warm", ext4, sample{Wall: 0.4, System: 0.1})
	}
	res.note("a try")
	var got strings.Builder
	err := printTable(&got, []row{{series: "find-warm", what: "find, warm", theirs: ext4, aim: atMost(0.95)}, {series: "start", aim: atMost(0.3)}}, res)
	const want = `row        what        ours    against  theirs  ratio  rounds     CPU    aim
find-warm  find, warm  250 ms  ext4     400 ms  0.62x  0.50-0.75  1.00x  ≤ 0.95x   met
start                  ?                                                 ≤ 300 ms  unmeasured

1 met, 0 missed, 1 unmeasured
note: a try
`
	if diff := cmp.Diff(want, got.String()); err != nil || diff != "" {
		t.Errorf("printTable = %v (-want +got)\n%s", err, diff)
	}
}

func TestChoose(t *testing.T) {
	series := func(words ...string) (list []string) {
		chosen, err := choose(rows(), words)
		if err != nil {
			return []string{err.Error()}
		}
		for _, r := range chosen {
			list = append(list, r.series+" "+r.theirs)
		}
		return list
	}
	for _, test := range []struct {
		words, want []string
	}{
		{[]string{"compile"}, []string{"compile-warm ext4", "compile-cold ext4"}},
		{[]string{"find-warm", "rebuild"}, []string{"rebuild first", "rebuild-imported first", "find-warm ext4"}},
		{[]string{"dump"}, []string{"dump-warm nix", "dump-dropped nix"}},
		{[]string{"dum"}, []string{`no row "dum"; see -list`}},
	} {
		if diff := cmp.Diff(test.want, series(test.words...)); diff != "" {
			t.Errorf("choose(%q): (-want +got)\n%s", test.words, diff)
		}
	}
	if got := len(series()); got != len(rows()) {
		t.Errorf("choose() = %d rows; want all %d", got, len(rows()))
	}
}

// TestRebuild holds that what stands for references keeps its length: NARs say the length before.
func TestRebuild(t *testing.T) {
	const from, want = "#!/bin/sh\n. /usr/lib/x /usr/bin/y", "#!/bin_sh\n. /usr_lib/x /usr_bin/y"
	if got := string(rebuild([]byte(from))); got != want || len(got) != len(from) {
		t.Errorf("rebuild(%q) = %q; want %q", from, got, want)
	}
}
