package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// measureCompile compiles C files whose headers are this machine's, but taken from the mount.
func (b *bench) measureCompile(ctx context.Context) error {
	if err := need("gcc"); err != nil {
		return err
	}
	const headers = "/usr/include"
	if _, err := os.Stat(filepath.Join(headers, "stdio.h")); err != nil {
		return fmt.Errorf("needs the headers of a C library: %w", err)
	}
	d, err := newDataset("headers", []string{headers})
	if err != nil {
		return err
	}
	s, err := b.newStateOf(ctx, d)
	if err != nil {
		return err
	}
	volumes, err := b.volumes(ctx, "compile", d, s)
	if err != nil {
		return err
	}
	internal, err := b.answer(ctx, "gcc", "-print-file-name=include")
	if err != nil {
		return err
	}
	arch, err := b.answer(ctx, "gcc", "-print-multiarch")
	if err != nil {
		return err
	}
	sources, err := b.writeSources(headers)
	if err != nil {
		return err
	}
	compile := func(ctx context.Context, dir string) (sample, error) {
		store := filepath.Join(dir, d.trees[0].name)
		var sum sample
		for _, source := range sources {
			s, err := command{args: []string{
				"gcc", "-nostdinc", "-isystem", strings.TrimSpace(internal), "-isystem", filepath.Join(store, strings.TrimSpace(arch)),
				"-isystem", store, "-O1", "-c", "-o", filepath.Join(b.dir, "out.o"), source,
			}}.run(ctx, b.limit)
			if err != nil {
				return sum, err
			}
			sum.Wall, sum.User, sum.System = sum.Wall+s.Wall, sum.User+s.User, sum.System+s.System
		}
		return sum, nil
	}
	b.measureWork(ctx, volumes, []work{{"compile", compile}})
	return nil
}

// writeSources writes C files that include much of what a C library has.
func (b *bench) writeSources(headers string) ([]string, error) {
	var includes []string
	for name := range strings.FieldsSeq(`arpa/inet.h assert.h complex.h ctype.h dirent.h dlfcn.h errno.h fcntl.h fnmatch.h ftw.h
		getopt.h glob.h grp.h iconv.h inttypes.h langinfo.h locale.h math.h netdb.h netinet/in.h netinet/tcp.h poll.h
		pthread.h pwd.h regex.h sched.h search.h semaphore.h signal.h spawn.h stdio.h stdlib.h string.h sys/epoll.h
		sys/file.h sys/inotify.h sys/mman.h sys/prctl.h sys/resource.h sys/select.h sys/socket.h sys/stat.h sys/syscall.h
		sys/time.h sys/types.h sys/uio.h sys/un.h sys/utsname.h sys/wait.h syslog.h termios.h threads.h time.h unistd.h
		wchar.h wctype.h`) {
		if _, err := os.Stat(filepath.Join(headers, name)); err == nil || strings.HasPrefix(name, "sys/") {
			includes = append(includes, "#include <"+name+">\n")
		}
	}
	n := 100
	if b.quick {
		n = 10
	}
	files := make([]string, n)
	var errs error
	for i := range files {
		files[i] = filepath.Join(b.dir, fmt.Sprintf("source-%d.c", i))
		text := fmt.Sprintf("#define _GNU_SOURCE\n%sint f%d(const char *s) { return printf(\"%%s %%zu\\n\", s, strlen(s)) + %d; }\n",
			strings.Join(includes, ""), i, i)
		errs = errors.Join(errs, os.WriteFile(files[i], []byte(text), 0o644))
	}
	return files, errs
}
