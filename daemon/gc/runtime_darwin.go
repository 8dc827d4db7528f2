package gc

import (
	"context"
	"errors"
	"fmt"
	"os/exec"

	"github.com/narfs/narfs/internal/nix"
)

// runtimeRoots calls found with each store path that a running process has open, by what lsof(8) tells, as Nix does.
func runtimeRoots(ctx context.Context, found func(Root)) error {
	out, err := exec.CommandContext(ctx, "lsof", "-n", "-w", "-F", "n").Output()
	// It exits with 1 where it may not look at all processes.
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("look at processes: %w", err)
	}
	mentions(out, func(p nix.StorePath) { found(Root{p, Runtime, "a process (see lsof)"}) })
	return nil
}
