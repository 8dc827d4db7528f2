package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
)

// work is what is measured in a mounted tree.
type work struct {
	name string
	do   func(ctx context.Context, dir string) (sample, error)
}

// measureWork measures works on volumes, in all temperatures that the plan wants, taking turns.
func (b *bench) measureWork(ctx context.Context, volumes []volume, works []work) {
	for round := range b.rounds {
		for _, w := range works {
			for _, v := range volumes {
				if ctx.Err() != nil {
					return
				}
				b.failed(ctx, fmt.Sprintf("%s of %s, round %d", w.name, v.system(), round+1), b.measureColdAndWarm(ctx, v, w))
			}
		}
	}
	for round := range b.rounds {
		for _, w := range works {
			for _, v := range volumes {
				if ctx.Err() != nil {
					return
				}
				b.failed(ctx, fmt.Sprintf("%s of %s, dropped, round %d", w.name, v.system(), round+1), b.measureDropped(ctx, v, w))
			}
		}
	}
}

// measureColdAndWarm mounts a volume whose device is in the page cache and measures the first time that a work is done
// there, and the third time.
func (b *bench) measureColdAndWarm(ctx context.Context, v volume, w work) error {
	onCold, onWarm := b.plan.wants(w.name+"-"+cold, v.system()), b.plan.wants(w.name+"-"+warm, v.system())
	if !onCold && !onWarm {
		return nil
	}
	if err := preload(v.device()); err != nil {
		return err
	}
	return onMount(ctx, v, func(m *mount) error {
		s, err := withServer(ctx, m, w)
		if err != nil {
			return err
		}
		if onCold {
			b.record(ctx, w.name+"-"+cold, v.system(), s, nil)
		}
		if !onWarm {
			return nil
		}
		if _, err := w.do(ctx, m.dir); err != nil {
			return err
		}
		if s, err = withServer(ctx, m, w); err == nil {
			b.record(ctx, w.name+"-"+warm, v.system(), s, nil)
		}
		return err
	})
}

// measureDropped measures a work on a volume that has to be read from its disk.
func (b *bench) measureDropped(ctx context.Context, v volume, w work) error {
	series := w.name + "-" + dropped
	if !b.plan.wants(series, v.system()) {
		return nil
	}
	if err := b.drop(v.device()); err != nil {
		return err
	}
	return onMount(ctx, v, func(m *mount) error {
		s, err := withServer(ctx, m, w)
		if err == nil {
			b.record(ctx, series, v.system(), s, nil)
		}
		return err
	})
}

// drop takes devices, which nothing may use, out of the page cache.
func (b *bench) drop(devices ...string) error {
	for _, device := range devices {
		if err := evict(device); err != nil {
			return err
		}
	}
	if b.dropCaches {
		return dropCaches()
	}
	return nil
}

// onMount calls fn with a volume mounted.
func onMount(ctx context.Context, v volume, fn func(*mount) error) error {
	m, err := v.mount(ctx)
	if err != nil {
		return err
	}
	return errors.Join(fn(m), m.unmount(context.WithoutCancel(ctx)))
}

// withServer does a work and adds what the process that serves the mount had to do for it.
func withServer(ctx context.Context, m *mount, w work) (sample, error) {
	before, err := m.serverCPU()
	if err != nil {
		return sample{}, err
	}
	s, err := w.do(ctx, m.dir)
	if err != nil {
		return s, err
	}
	after, err := m.serverCPU()
	s.Server = (after - before) * s.projection()
	return s, err
}

// volumes returns a dataset as narfs keeps it, and as those systems do that the rows of a group compare with.
func (b *bench) volumes(ctx context.Context, group string, d *dataset, s *state) ([]volume, error) {
	volumes := []volume{s}
	if b.plan.against(group, ext4) {
		v, err := b.ext4Image(ctx, d)
		if err != nil {
			return nil, err
		}
		volumes = append(volumes, v)
	}
	if b.plan.against(group, squashfs) {
		v, err := b.squashfsImage(ctx, d)
		if err != nil {
			return nil, err
		}
		volumes = append(volumes, v)
	}
	return volumes, nil
}

// inTree is a command that is run in the folder of a mount, so that its arguments are the same everywhere.
func (b *bench) inTree(args ...string) func(context.Context, string) (sample, error) {
	return func(ctx context.Context, dir string) (sample, error) {
		return command{args: args, dir: dir}.run(ctx, b.limit)
	}
}

// storm is a work that bench itself does, in a process of its own; see stormMain. Its list is that of the entries to
// keep, its file one of the mount.
func (b *bench) storm(op, list, file string) func(context.Context, string) (sample, error) {
	return func(ctx context.Context, dir string) (sample, error) {
		// Not by name: scripts/bench may have built another one by now.
		args := []string{"/proc/self/exe", "storm", "-limit", stormLimit.String(), "-list", list}
		if file != "" {
			args = append(args, "-file", filepath.Join(dir, file))
		}
		return b.answerSample(ctx, append(args, op, dir)...)
	}
}
