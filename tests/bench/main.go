package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// What bench exits with.
const (
	exitDone        = 0
	exitFailed      = 1 // something could not be measured; a missed aim is no failure
	exitUsage       = 2
	exitInterrupted = 130
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "storm" {
		os.Exit(stormMain(os.Args[2:], os.Stdout, os.Stderr)) //nolint:forbidigo // this is main
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code) //nolint:forbidigo // this is main
}

// config is what the command line says.
type config struct {
	narfs      string // the binary
	cache      string // the cache folder
	data       string // a folder of trees instead of Debian's packages
	work       string // where the folder of this run is made
	json       string
	rounds     int
	quick      bool
	dropCaches bool
	list       bool
	limit      time.Duration // of one command
	total      time.Duration // of the run
	selection  []string
}

func parse(args []string, stderr io.Writer) (*config, error) {
	c := &config{}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&c.narfs, "narfs", "", "the narfs `BINARY` to measure")
	flags.StringVar(&c.cache, "cache", "", "`DIR` for what later runs can use again (default narfs/bench in the user's cache folder)")
	flags.StringVar(&c.data, "data", "", "`DIR` of trees to measure with, instead of Debian's packages")
	flags.StringVar(&c.work, "work", "", "`DIR` to make this run's folder in (default the cache folder)")
	flags.StringVar(&c.json, "json", "", "write all samples to this `FILE`")
	flags.IntVar(&c.rounds, "rounds", 0, "how often each system has its turn (default 3, quick 1)")
	flags.BoolVar(&c.quick, "quick", false, "one round, with little data: a try, no measurement")
	flags.BoolVar(&c.dropCaches, "drop-caches", false, "also drop all caches of the machine where caches are dropped (root)")
	flags.BoolVar(&c.list, "list", false, "list the rows")
	flags.DurationVar(&c.limit, "limit", 10*time.Minute, "time that one command may take")
	flags.DurationVar(&c.total, "total", 3*time.Hour, "time that all may take")
	flags.Usage = func() {
		_, _ = fmt.Fprintf(stderr, "usage: bench [OPTION...] [GROUP|ROW...]\n\nMeasure narfs. Without arguments: all rows (-list).\n\n")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	c.selection = flags.Args()
	if c.rounds == 0 {
		c.rounds = 3
		if c.quick {
			c.rounds = 1
		}
	}
	if c.cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return nil, err
		}
		c.cache = filepath.Join(dir, "narfs", "bench")
	}
	if c.work == "" {
		c.work = c.cache
	}
	for _, path := range []*string{&c.narfs, &c.cache, &c.data, &c.work, &c.json} {
		if *path != "" {
			abs, err := filepath.Abs(*path)
			if err != nil {
				return nil, err
			}
			*path = abs
		}
	}
	return c, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return exitDone
	}
	if err != nil {
		return exitUsage
	}
	complain := func(err error) { _, _ = fmt.Fprintf(stderr, "bench: %v\n", err) }
	wanted, err := choose(rows(), c.selection)
	if err != nil {
		complain(err)
		return exitUsage
	}
	if c.list {
		_ = printRows(stdout, wanted)
		return exitDone
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.total, fmt.Errorf("all of it took longer than %v", c.total))
	defer cancel()
	b, err := newBench(ctx, c, wanted, stderr)
	if err != nil {
		complain(err)
		return exitFailed
	}
	b.measure(ctx)
	b.close(context.WithoutCancel(ctx))

	code := exitDone
	if len(b.results.Failures) > 0 {
		code = exitFailed
	}
	if err := ctx.Err(); err != nil {
		b.results.note("not finished: %v", context.Cause(ctx))
		code = exitInterrupted
	}
	err = printTable(stdout, wanted, b.results)
	if c.json != "" {
		err = errors.Join(err, writeJSON(c.json, wanted, b.results))
	}
	if err != nil {
		complain(err)
		code = max(code, exitFailed)
	}
	return code
}
