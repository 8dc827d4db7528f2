package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stormLimit is how long a storm may last. Of one that is not through by then, the time of the rest is projected.
const stormLimit = 45 * time.Second

// stormMain is the program that makes many small requests of a tree, the same for every system. It prints a sample.
//
//	bench storm [-limit TIME] -list FILE OP DIR
//
// stat, absent, open and read work on the paths of the list, which begin in DIR: lstat(2), lstat of a name that is not
// there, open(2) and close(2), the same with reading all in between. rand, mmap, touch and seq work on -file: 4 KiB at
// random places, with pread(2), or by mmap(2) with the advice that they are random, as fio gives it, or without, as most
// programs do; and all from begin to end.
func stormMain(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("bench storm", flag.ContinueOnError)
	flags.SetOutput(stderr)
	limit := flags.Duration("limit", time.Minute, "how long it may last")
	list := flags.String("list", "", "`FILE` of paths, each with a NUL behind it")
	file := flags.String("file", "", "`FILE` to read")
	if err := flags.Parse(args); err != nil || flags.NArg() != 2 {
		return exitUsage
	}
	s, err := makeStorm(flags.Arg(0), flags.Arg(1), *list, *file, *limit)
	if err == nil {
		err = json.NewEncoder(stdout).Encode(s)
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "storm %s: %v\n", flags.Arg(0), err)
		return exitFailed
	}
	return exitDone
}

// answerSample runs a command that prints a sample.
func (b *bench) answerSample(ctx context.Context, args ...string) (sample, error) {
	var s sample
	text, err := b.answer(ctx, args...)
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal([]byte(text), &s)
}

// requests are what a storm does: n of them, each of which returns how many bytes it read.
type requests struct {
	n   int
	one func(i int) (int, error)
}

func makeStorm(op, dir, list, file string, limit time.Duration) (sample, error) {
	// The client should cost little and always the same: one thread, no collections.
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	var r requests
	var err error
	switch op {
	case "rand", "mmap", "touch", "seq":
		r, err = fileRequests(op, file)
	default:
		r, err = treeRequests(op, dir, list)
	}
	if err != nil {
		return sample{}, err
	}
	s := sample{Total: r.n}
	before := ownCPU()
	start := time.Now()
	for s.Done = 0; s.Done < r.n; s.Done++ {
		n, err := r.one(s.Done)
		if err != nil {
			return s, err
		}
		s.Bytes += int64(n)
		if s.Done%256 == 255 && time.Since(start) > limit {
			s.Done++
			break
		}
	}
	s.Wall = time.Since(start).Seconds()
	after := ownCPU()
	s.User, s.System = after.User-before.User, after.System-before.System
	whole := s.projection()
	s.Wall, s.User, s.System = s.Wall*whole, s.User*whole, s.System*whole
	return s, nil
}

// treeRequests are those of a storm on paths, from inside dir.
func treeRequests(op, dir, list string) (requests, error) {
	text, err := os.ReadFile(list)
	if err != nil {
		return requests{}, err
	}
	paths := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
	if err := os.Chdir(dir); err != nil {
		return requests{}, err
	}
	var stat unix.Stat_t
	buf := make([]byte, 256<<10)
	absent := make([]string, 0, len(paths))
	one := map[string]func(i int) (int, error){
		"stat": func(i int) (int, error) { return 0, unix.Lstat(paths[i], &stat) },
		"absent": func(i int) (int, error) {
			if err := unix.Lstat(absent[i], &stat); !errors.Is(err, unix.ENOENT) {
				return 0, fmt.Errorf("%s: %w; want that it is absent", absent[i], err)
			}
			return 0, nil
		},
		"open": func(i int) (int, error) { return readAll(paths[i], nil) },
		"read": func(i int) (int, error) { return readAll(paths[i], buf) },
	}[op]
	if one == nil {
		return requests{}, errors.New("no such storm")
	}
	if op == "absent" {
		for _, path := range paths {
			absent = append(absent, path+".absent")
		}
	}
	return requests{len(paths), one}, nil
}

// readAll opens a file, reads it unless buf is nil, and closes it.
func readAll(path string, buf []byte) (n int, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	for len(buf) > 0 {
		got, err := unix.Read(fd, buf)
		if err != nil {
			return n, fmt.Errorf("%s: %w", path, err)
		}
		if got == 0 {
			break
		}
		n += got
	}
	return n, unix.Close(fd)
}

// fileRequests are those of a storm on one file.
func fileRequests(op, file string) (requests, error) {
	const page, most = 4 << 10, 16 << 10
	f, err := os.Open(file)
	if err != nil {
		return requests{}, err
	}
	info, err := f.Stat()
	if err != nil {
		return requests{}, err
	}
	fd, size := int(f.Fd()), info.Size()
	if op == "seq" {
		buf := make([]byte, 1<<20)
		return requests{int((size + 1<<20 - 1) >> 20), func(int) (int, error) { return unix.Read(fd, buf) }}, nil
	}
	random := rand.New(rand.NewPCG(3, 4))
	places := make([]int64, min(most, size/page))
	for i := range places {
		places[i] = random.Int64N(size/page) * page
	}
	buf := make([]byte, page)
	if op == "rand" {
		return requests{len(places), func(i int) (int, error) { return unix.Pread(fd, buf, places[i]) }}, nil
	}
	mapped, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err == nil && op == "mmap" {
		err = unix.Madvise(mapped, unix.MADV_RANDOM)
	}
	if err != nil {
		return requests{}, err
	}
	return requests{len(places), func(i int) (int, error) { return copy(buf, mapped[places[i]:]), nil }}, nil
}

// ownCPU returns the CPU time of this process.
func ownCPU() sample {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return sample{}
	}
	return sample{
		User:   time.Duration(usage.Utime.Nano()).Seconds(),
		System: time.Duration(usage.Stime.Nano()).Seconds(),
	}
}
