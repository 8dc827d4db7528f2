package build

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/narfs/narfs/internal/nix/drv"
)

// troubles are the machines that have failed one request, and why: it does not try them again.
type troubles struct {
	mu sync.Mutex // guards of
	of map[*Machine]string
}

func (t *troubles) add(m *Machine, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of == nil {
		t.of = map[*Machine]string{}
	}
	t.of[m] = strings.ReplaceAll(err.Error(), "\n", " ")
}

func (t *troubles) all() map[*Machine]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.of)
}

// attributes are those of a derivation that decide about where it is built.
type attributes struct {
	Required    []string `json:"requiredSystemFeatures"`
	PreferLocal bool     `json:"preferLocalBuild"`
}

func attributesOf(d *drv.Derivation) (a attributes, err error) {
	if text, structured := d.Env["__json"]; structured {
		if err := json.Unmarshal([]byte(text), &a); err != nil {
			return a, fmt.Errorf("attributes of derivation '%s': %w", d.Name, err)
		}
	} else {
		a = attributes{strings.Fields(d.Env["requiredSystemFeatures"]), d.Env["preferLocalBuild"] == "1"}
	}
	slices.Sort(a.Required)
	a.Required = slices.Compact(a.Required)
	return a, nil
}

// placing is what decides about where a goal is built.
type placing struct {
	requirement

	here     string // why not here; "" if it can be
	machines []Machine
}

func (g *goal) placing() (p placing, err error) {
	a, err := attributesOf(g.d)
	if err != nil {
		return p, err
	}
	p.here = g.cannot(a.Required)
	p.requirement = requirement{system: g.d.Platform, features: a.Required}
	if !g.farmable() || p.here == "" && a.PreferLocal {
		return p, nil
	}
	if kind, err := g.d.Kind(); err != nil {
		return p, err
	} else if kind == drv.Floating || kind == drv.Impure {
		p.features = append(slices.Clone(a.Required), "ca-derivations") // which a machine must know, as Nix has it
	}
	p.machines, err = g.o.Machines()
	return p, err
}

// farmable reports whether a goal may be built elsewhere at all: not to compare it with what is here, and not for who came here for
// it as one who builds elsewhere himself.
func (g *goal) farmable() bool {
	return g.mode == Normal && !g.given && g.b.opts.Dial != nil && g.o.Machines != nil
}

// cannot says why a derivation is not built here; "" if it is.
func (g *goal) cannot(required []string) string {
	d := g.d
	if g.o.MaxJobs == 0 {
		return "local builds are disabled (max-jobs = 0)"
	}
	missing := slices.ContainsFunc(required, func(f string) bool { return !slices.Contains(g.o.Features, f) })
	if d.IsBuiltin() || !missing && (d.Platform == g.o.System || slices.Contains(g.o.Platforms, d.Platform)) {
		return ""
	}
	return fmt.Sprintf("a '%s' with features {%s} is required to build '%s', but I am a '%s' with features {%s}",
		d.Platform, strings.Join(required, ", "), g.b.print(g.path), g.o.System, strings.Join(g.o.Features, ", "))
}

// place waits for a slot on another machine, or here if none is free there and one is here, and takes it; nil means here.
func (g *goal) place(ctx context.Context, p placing) (*Machine, error) {
	b := g.b
	for {
		b.mu.Lock()
		freed := b.freed
		m, suitable := best(p.machines, p.requirement, g.o.troubles.all(), b.away)
		switch {
		case m != nil:
			b.away[m.Store]++
			b.mu.Unlock()
			return m, nil
		case p.here == "" && b.running < g.o.MaxJobs:
			b.running++
			b.mu.Unlock()
			return nil, nil
		}
		b.mu.Unlock()
		if !suitable && p.here != "" {
			return nil, fmt.Errorf("%s", g.nowhere(p))
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// leave gives a slot back.
func (b *Builder) leave(m *Machine) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m == nil {
		b.running--
	} else if b.away[m.Store]--; b.away[m.Store] == 0 {
		delete(b.away, m.Store)
	}
	close(b.freed)
	b.freed = make(chan struct{})
}

// best returns the machine to take, of those that can build something and have a slot: the one with the least to do for its speed, then the
// fastest, then the first; nil if there is none. Suitable says that some can, and are busy perhaps. Running counts the builds by stores.
func best(machines []Machine, r requirement, troubles map[*Machine]string, running map[string]int) (m *Machine, suitable bool) {
	load := 0.0
	for i := range machines {
		other := &machines[i]
		if _, failed := troubles[other]; failed || other.refuses(r) != "" {
			continue
		}
		suitable = true
		if running[other.Store] >= other.MaxJobs {
			continue
		}
		its := float64(running[other.Store]) / other.Speed
		if m == nil || its < load || its == load && other.Speed > m.Speed {
			m, load = other, its
		}
	}
	return m, suitable
}

// nowhere says why a derivation is built nowhere: first as Nix does, then machine by machine.
func (g *goal) nowhere(p placing) string {
	if len(p.machines) == 0 {
		if g.o.MaxJobs > 0 {
			return p.here
		}
		return fmt.Sprintf("unable to start any build; either increase '--max-jobs' or enable remote builds: cannot build '%s': %s", g.b.print(g.path), p.here)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "Failed to find a machine for remote build!\nderivation: %s\nrequired (system, features): (%s, [%s])\n%d available machines:\n"+
		"(systems, maxjobs, supportedFeatures, mandatoryFeatures)", g.path.BaseName(), p.system, strings.Join(p.features, ", "), len(p.machines))
	for _, m := range p.machines {
		fmt.Fprintf(&text, "\n([%s], %d, [%s], [%s])", strings.Join(m.Systems, ", "), m.MaxJobs, strings.Join(m.Features, ", "), strings.Join(m.Mandatory, ", "))
	}
	troubles := g.o.troubles.all()
	for i := range p.machines {
		m := &p.machines[i]
		why := cmp.Or(m.refuses(p.requirement), troubles[m])
		fmt.Fprintf(&text, "\n'%s' is not taken: %s", m.Store, why)
	}
	fmt.Fprintf(&text, "\nand not here: %s", p.here)
	return text.String()
}
