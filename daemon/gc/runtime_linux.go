package gc

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/narfs/narfs/internal/nix"
)

// maxProcFile bounds what is read of one file in /proc.
const maxProcFile = 64 << 20

// runtimeRoots calls found with each store path that a running process mentions, valid or not, some more than once.
func runtimeRoots(ctx context.Context, found func(Root)) error {
	return procRoots(ctx, "/proc", found)
}

func procRoots(ctx context.Context, proc string, found func(Root)) error {
	names, err := readNames(proc)
	if err != nil {
		return fmt.Errorf("look at processes: %w", err)
	}
	for _, name := range names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, err := strconv.ParseUint(name, 10, 32); err == nil {
			processRoots(filepath.Join(proc, name), func(p nix.StorePath, what string) {
				found(Root{p, Runtime, "process " + name + ": " + what})
			})
		}
	}
	// Helpers that the kernel starts.
	for _, name := range []string{"modprobe", "fbsplash", "poweroff_cmd"} {
		file := filepath.Join(proc, "sys/kernel", name)
		mentionsIn(file, func(p nix.StorePath) { found(Root{p, Runtime, file}) })
	}
	return nil
}

// processRoots looks at one process. What cannot be read belongs to others, or to a process that has ended.
func processRoots(dir string, found func(nix.StorePath, string)) {
	link := func(name string) {
		if target, err := os.Readlink(filepath.Join(dir, name)); err == nil {
			mentions([]byte(target), func(p nix.StorePath) { found(p, name) })
		}
	}
	for _, name := range []string{"exe", "cwd", "root"} {
		link(name)
	}
	fds, _ := readNames(filepath.Join(dir, "fd"))
	for _, fd := range fds {
		link("fd/" + fd)
	}
	for _, name := range []string{"maps", "environ"} {
		mentionsIn(filepath.Join(dir, name), func(p nix.StorePath) { found(p, name) })
	}
}

// readNames returns what a folder holds, in any order.
func readNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close() //nolint:errcheck // only read
	return d.Readdirnames(-1)
}

func mentionsIn(file string, found func(nix.StorePath)) {
	f, err := os.Open(file)
	if err != nil {
		return
	}
	defer f.Close() //nolint:errcheck // only read
	text, _ := io.ReadAll(io.LimitReader(f, maxProcFile))
	mentions(text, found)
}
