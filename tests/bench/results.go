package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// sample is one measurement.
type sample struct {
	Wall   float64   `json:"wall_s,omitempty"`
	User   float64   `json:"user_s,omitempty"`
	System float64   `json:"system_s,omitempty"`
	Server float64   `json:"server_s,omitempty"` // CPU time of the process that serves the mount
	Bytes  int64     `json:"bytes,omitempty"`    // what was read or written or, where sizes are measured, the size
	Peak   int64     `json:"peak_rss,omitempty"`
	Anon   int64     `json:"peak_anon,omitempty"` // the largest part of it seen that no file backs
	Done   int       `json:"done,omitempty"`      // operations; Wall is projected if less than Total
	Total  int       `json:"total,omitempty"`
	Load   float64   `json:"load"` // of the machine, over the last minute
	Time   time.Time `json:"time"`
}

func (s sample) cpu() float64 { return s.User + s.System + s.Server }

// projection is what a storm that did not get through has to be multiplied with; its own figures already are.
func (s sample) projection() float64 {
	if s.Done == 0 || s.Done >= s.Total {
		return 1
	}
	return float64(s.Total) / float64(s.Done)
}

// samples are those of each series and system.
type samples map[string]map[string][]sample

// results are what a run brings.
type results struct {
	Machine  map[string]string `json:"machine"`
	Options  map[string]string `json:"options"`
	Data     map[string]int64  `json:"data"`
	Samples  samples           `json:"samples"`
	Failures []string          `json:"failures"`
	Notes    []string          `json:"notes"`
}

func newResults() *results {
	return &results{Machine: map[string]string{}, Options: map[string]string{}, Data: map[string]int64{}, Samples: samples{}}
}

func (r *results) add(series, system string, s sample) {
	if r.Samples[series] == nil {
		r.Samples[series] = map[string][]sample{}
	}
	s.Load, s.Time = load(), time.Now()
	r.Samples[series][system] = append(r.Samples[series][system], s)
}

func (r *results) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// load returns the load of the last minute.
func load() float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	var one float64
	_, _ = fmt.Sscan(string(text), &one)
	return one
}

// describe collects what a reader of figures wants to know about the machine.
func (r *results) describe(ctx context.Context, c *config) {
	file := func(name string) string {
		text, _ := os.ReadFile(name)
		return string(text)
	}
	r.Machine["cores"] = fmt.Sprint(runtime.NumCPU())
	r.Machine["arch"] = runtime.GOARCH
	r.Machine["kernel"] = strings.TrimSpace(file("/proc/sys/kernel/osrelease"))
	r.Machine["load"] = strings.TrimSpace(file("/proc/loadavg"))
	for line := range strings.Lines(file("/proc/cpuinfo")) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			r.Machine["processor"] = strings.TrimSpace(value)
		}
	}
	memory, _, _ := strings.Cut(file("/proc/meminfo"), "\n")
	r.Machine["memory"] = strings.TrimSpace(strings.TrimPrefix(memory, "MemTotal:"))
	r.Machine["date"] = time.Now().Format(time.RFC3339)
	for name, command := range map[string][]string{
		narfs: {c.narfs, "version"}, nix: {"nix-store", "--version"}, squashfs: {"mksquashfs", "-version"},
		casync: {"casync", "--version"}, "gcc": {"gcc", "--version"}, ext4: {"mke2fs", "-V"},
	} {
		out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
		line, _, _ := strings.Cut(string(out), "\n")
		if err != nil && line == "" {
			line = err.Error()
		}
		r.Machine[name] = line
	}
	r.Options["rounds"] = fmt.Sprint(c.rounds)
	r.Options["quick"] = fmt.Sprint(c.quick)
	r.Options["drop_caches"] = fmt.Sprint(c.dropCaches)
	r.Options["data"] = c.data
}

// figures is an outcome as JSON.
type figures struct {
	Group   string   `json:"group"`
	Series  string   `json:"series"`
	What    string   `json:"what,omitempty"`
	Against string   `json:"against,omitempty"`
	Ours    *float64 `json:"ours"`
	Theirs  *float64 `json:"theirs,omitempty"`
	Ratio   *float64 `json:"ratio,omitempty"`
	Lowest  *float64 `json:"lowest_ratio,omitempty"`
	Highest *float64 `json:"highest_ratio,omitempty"`
	CPU     *float64 `json:"cpu_ratio,omitempty"`
	Aim     string   `json:"aim,omitempty"`
	Verdict verdict  `json:"verdict"`
}

// writeJSON writes everything that was measured.
func writeJSON(file string, list []row, res *results) error {
	number := func(f float64) *float64 {
		if math.IsNaN(f) {
			return nil
		}
		return &f
	}
	all := make([]figures, 0, len(list))
	for _, r := range list {
		o := evaluate(r, res.Samples)
		all = append(all, figures{
			r.group, r.series, r.what, r.theirs, number(o.ours), number(o.theirs), number(o.ratio), number(o.lowest),
			number(o.highest), number(o.cpu), r.aimText(), o.verdict,
		})
	}
	text, err := json.MarshalIndent(struct {
		*results

		Rows []figures `json:"rows"`
	}{res, all}, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}
