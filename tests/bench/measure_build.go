package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// buildSize is how much daemons build.
type buildSize struct{ many, inputs int }

func (b *bench) buildSize() buildSize {
	if b.quick {
		return buildSize{20, 500}
	}
	return buildSize{200, 5000}
}

// forBuilds are settings for all daemons, and for their client, which as root tells the daemon its own.
const forBuilds = "sandbox = true\nsandbox-fallback = false\nmax-jobs = 2\nsandbox-paths = /bin /usr/bin /usr/lib /usr/lib64? /lib /lib64? /etc/ld.so.cache?\n"

// measureBuild has the daemons of all systems build the same.
func (b *bench) measureBuild(ctx context.Context) error {
	if err := need("nix"); err != nil {
		return err
	}
	return b.eachDaemon(ctx, "build", func(system string) error { return b.buildOnce(ctx, system) })
}

// buildOnce has one daemon build all.
func (b *bench) buildOnce(ctx context.Context, system string) error {
	d, err := b.startDaemon(ctx, system, true)
	if err != nil {
		return err
	}
	size := b.buildSize()
	for _, build := range []struct{ series, expression string }{
		{"build-many", fmt.Sprintf(`builtins.genList (i: mk "p-${toString i}" "echo ${toString i} > $out" { }) %d`, size.many)},
		{"build-chain", fmt.Sprintf(`builtins.foldl' (before: i: mk "c-${toString i}" "echo ${before} > $out" { }) "" (builtins.genList (i: i) %d)`, size.many)},
		// One variable would be longer than the kernel lets any be.
		{"build-inputs", fmt.Sprintf(`mk "inputs" "echo > $out" (builtins.listToAttrs (builtins.genList (k: {
			name = "inputs${toString k}";
			value = builtins.genList (i: builtins.toFile "input-${toString k}-${toString i}" "") %d;
		}) 10))`, size.inputs/10)},
	} {
		file := filepath.Join(d.dir, build.series+".nix")
		text := `let mk = name: script: attrs: derivation ({
			inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ];
		} // attrs); in ` + build.expression
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
		var drvs strings.Builder
		instantiate := d.client("nix-instantiate", file)
		instantiate.pipe = &drvs
		if _, err := instantiate.run(ctx, b.limit); err != nil {
			return err
		}
		realise := d.client("nix-store", append([]string{"--realise"}, strings.Fields(drvs.String())...)...)
		if err := b.takeOf(ctx, d, build.series, func() error { _, err := realise.run(ctx, b.limit); return err }); err != nil {
			return err
		}
	}
	return d.stop()
}

// client is a program of Nix that uses the daemon, and reads files of the store where they are.
func (d *daemonOf) client(name string, args ...string) command {
	c := d.command(append([]string{name}, args...)...)
	files := "?root=" + d.root
	if d.system == narfs {
		files = "?real=" + d.mountDir()
	}
	c.env = append(c.env, "NIX_REMOTE=unix://"+d.socket+files)
	return c
}

// mountDir is where narfs mounts its store, if it is to.
func (d *daemonOf) mountDir() string { return filepath.Join(d.dir, "mnt") }
