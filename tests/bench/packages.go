package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// packages are those of Debian that the main dataset is made of. Many stand there in two versions, as they do in a store.
// Those with a * are the last two of the names that match.
func packages() []string {
	return strings.Fields(`
		linux-headers-6.1.*-common linux-headers-6.*+deb12-common
		libboost1.74-dev libboost1.81-dev llvm-14-dev llvm-15-dev libllvm14 libllvm15 clang-14 clang-15
		libclang-common-14-dev libclang-common-15-dev gcc-11 gcc-12 g++-11 g++-12 cpp-11 cpp-12 libstdc++-11-dev libstdc++-12-dev
		golang-1.19-src golang-1.19-go python3.11-minimal libpython3.11-stdlib python3-numpy perl-modules-5.36 libruby3.1 ruby3.1
		git vim-runtime emacs-common cmake-data openjdk-17-jre-headless binutils-x86-64-linux-gnu qtbase5-dev libqt5core5a
		libgtk-3-dev libgtk-3-0 texlive-latex-base fonts-dejavu-core`)
}

// quickPackages are enough for a try.
func quickPackages() []string {
	return strings.Fields(`git vim-runtime perl-modules-5.36 libstdc++-11-dev libstdc++-12-dev g++-11 g++-12 cmake-data
		python3-numpy libruby3.1`)
}

// rebuiltPackages are those that are imported twice for the row rebuild.
func rebuiltPackages() []string {
	return strings.Fields(`gcc-12 g++-12 cpp-12 libllvm15 libclang-common-15-dev git golang-1.19-go openjdk-17-jre-headless
		python3-numpy libpython3.11-stdlib python3.11-minimal perl-modules-5.36 vim-runtime emacs-common cmake-data libgtk-3-0
		libqt5core5a libruby3.1 binutils-x86-64-linux-gnu texlive-latex-base`)
}

// mainDataset returns what most rows are measured with.
func (b *bench) mainDataset(ctx context.Context) (*dataset, error) {
	if b.main != nil {
		return b.main, nil
	}
	dirs, err := b.mainDirs(ctx)
	if err != nil {
		return nil, err
	}
	name := "full"
	if b.quick {
		name = "quick"
	}
	d, err := newDataset(name, dirs)
	if err != nil {
		return nil, err
	}
	b.say("%d trees, %d files, %d entries, %d MB", len(d.trees), d.files, len(d.entries), d.bytes/1e6)
	b.results.Data["trees"], b.results.Data["files"] = int64(len(d.trees)), int64(d.files)
	b.results.Data["entries"], b.results.Data["bytes"] = int64(len(d.entries)), d.bytes
	const enoughFiles, enoughBytes = 50_000, 1_000_000_000
	if d.files < enoughFiles || d.bytes < enoughBytes {
		b.results.note("only %d files with %d MB: a try, no measurement", d.files, d.bytes/1e6)
	}
	// The stores of all rounds are kept until the end: those of Nix, the light ones and the uncompressed ones.
	wanted := d.bytes * int64(2*b.rounds+4)
	if free, err := freeSpace(b.dir); err != nil || free < wanted {
		return nil, errors.Join(err, fmt.Errorf("%s has %d MB free; %d are needed (-work, -rounds, -quick)", b.dir, free/1e6, wanted/1e6))
	}
	b.main = d
	return d, nil
}

// mainDirs returns the folders of the main dataset.
func (b *bench) mainDirs(ctx context.Context) ([]string, error) {
	names := packages()
	if b.quick {
		names = quickPackages()
	}
	if b.data == "" {
		return b.fetch(ctx, names)
	}
	found, err := os.ReadDir(b.data)
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, entry := range found {
		if entry.IsDir() && (!b.quick || slices.Contains(names, entry.Name())) {
			dirs = append(dirs, filepath.Join(b.data, entry.Name()))
		}
	}
	if len(dirs) == 0 {
		return nil, fmt.Errorf("no trees in %s", b.data)
	}
	return dirs, nil
}

// fetch downloads packages that are not in the cache folder yet and returns the folders with what is in them.
func (b *bench) fetch(ctx context.Context, names []string) ([]string, error) {
	if err := need("apt-get", "apt-cache", "dpkg-deb"); err != nil {
		return nil, fmt.Errorf("%w: name a folder of trees (-data)", err)
	}
	if _, err := b.answer(ctx, "apt-cache", "show", "git"); err != nil {
		b.say("apt knows no packages: updating its lists")
		if err := b.do(ctx, "apt-get", "-q", "update"); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(filepath.Join(b.cache, "trees"), 0o755); err != nil {
		return nil, err
	}
	var dirs []string
	for _, pattern := range names {
		resolved, err := b.resolve(ctx, pattern)
		if err != nil {
			return nil, err
		}
		for _, name := range resolved {
			dir, err := b.fetchOne(ctx, name)
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if err != nil {
				b.say("%v", err)
				b.results.note("package %s left out: apt does not give it", name)
				continue
			}
			dirs = append(dirs, dir)
		}
	}
	if len(dirs) == 0 {
		return nil, errors.New("apt gives no package: name a folder of trees (-data)")
	}
	slices.Sort(dirs)
	return slices.Compact(dirs), nil
}

// resolve returns the last two packages that a pattern with a * matches.
func (b *bench) resolve(ctx context.Context, pattern string) ([]string, error) {
	if !strings.Contains(pattern, "*") {
		return []string{pattern}, nil
	}
	before, after, _ := strings.Cut(pattern, "*")
	text, err := b.answer(ctx, "apt-cache", "pkgnames", before)
	if err != nil {
		return nil, err
	}
	found := slices.DeleteFunc(strings.Fields(text), func(name string) bool {
		rest, ok := strings.CutSuffix(strings.TrimPrefix(name, before), after)
		return !ok || strings.ContainsFunc(rest, func(r rune) bool { return r != '.' && r != '-' && (r < '0' || r > '9') })
	})
	slices.SortFunc(found, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b) // 6.1.0-9 before 6.1.0-10
		}
		return strings.Compare(a, b)
	})
	return found[max(0, len(found)-2):], nil
}

// fetchOne downloads a package and unpacks it, unless that was done before.
func (b *bench) fetchOne(ctx context.Context, name string) (string, error) {
	dir := filepath.Join(b.cache, "trees", name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	b.say("fetching %s", name)
	download, err := os.MkdirTemp(b.dir, "download.")
	if err != nil {
		return "", err
	}
	c := command{args: []string{"apt-get", "-q", "download", name}, dir: download}
	if _, err := c.run(ctx, b.limit); err != nil {
		return "", err
	}
	files, err := filepath.Glob(filepath.Join(download, "*.deb"))
	if err != nil || len(files) != 1 {
		return "", errors.Join(err, fmt.Errorf("apt-get download %s left %d packages", name, len(files)))
	}
	unfinished := fmt.Sprintf("%s.%d", dir, os.Getpid())
	if err := b.do(ctx, "dpkg-deb", "--extract", files[0], unfinished); err != nil {
		return "", errors.Join(err, os.RemoveAll(unfinished))
	}
	return dir, os.Rename(unfinished, dir)
}
