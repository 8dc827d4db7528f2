package builtin

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// pkg is a package of a profile.
type pkg struct {
	path     string
	priority int // the lower wins
}

// profile is a folder of links that is being made.
type profile struct {
	log        io.Writer
	priorities map[string]int // of links
}

func buildenv(e env, log io.Writer) error {
	out, err := e.get("out")
	if err != nil {
		return err
	}
	manifest, err := e.get("manifest")
	if err != nil {
		return err
	}
	pkgs, err := packages(e("derivations"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil { //nolint:gosec // a store path
		return err
	}
	p := &profile{log: log, priorities: map[string]int{}}
	if err := p.fill(out, pkgs); err != nil {
		return err
	}
	return os.Symlink(manifest, filepath.Join(out, "manifest.nix"))
}

// packages parses "ACTIVE PRIORITY N PATH…", again and again, and returns those that are active.
func packages(text string) (pkgs []pkg, err error) {
	words := strings.Fields(text)
	for len(words) > 0 {
		if len(words) < 3 {
			return nil, errors.New("attribute 'derivations' ends too early")
		}
		priority, perr := strconv.Atoi(words[1])
		n, nerr := strconv.Atoi(words[2])
		if err := errors.Join(perr, nerr); err != nil {
			return nil, fmt.Errorf("attribute 'derivations': %w", err)
		}
		active := words[0] != "false"
		if words = words[3:]; n < 0 || n > len(words) {
			return nil, errors.New("attribute 'derivations' ends too early")
		}
		for _, path := range words[:n] {
			if active {
				pkgs = append(pkgs, pkg{path, priority})
			}
		}
		words = words[n:]
	}
	slices.SortFunc(pkgs, func(a, b pkg) int { return cmp.Or(a.priority-b.priority, strings.Compare(a.path, b.path)) })
	return pkgs, nil
}

// fill links to all packages, and then to those that they want to have with them, which come last.
func (p *profile) fill(out string, pkgs []pkg) error {
	done := map[string]struct{}{}
	postponed := map[string]struct{}{}
	add := func(k pkg) error {
		if _, ok := done[k.path]; ok {
			return nil
		}
		done[k.path] = struct{}{}
		if err := p.link(k.path, out, k.priority); err != nil {
			return err
		}
		text, err := os.ReadFile(filepath.Join(k.path, "nix-support/propagated-user-env-packages"))
		if err != nil && !absent(err) {
			return err
		}
		for path := range strings.FieldsSeq(string(text)) {
			if _, ok := done[path]; !ok {
				postponed[path] = struct{}{}
			}
		}
		return nil
	}
	for _, k := range pkgs {
		if err := add(k); err != nil {
			return err
		}
	}
	for priority := 1000; len(postponed) > 0; {
		now := postponed
		postponed = map[string]struct{}{}
		paths := make([]string, 0, len(now))
		for path := range now {
			paths = append(paths, path)
		}
		slices.Sort(paths)
		for _, path := range paths {
			if err := add(pkg{path, priority}); err != nil {
				return err
			}
			priority++
		}
	}
	return nil
}

func absent(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) }

// left reports what no profile shows: it is of no use there, or each package has its own.
func left(file string) bool {
	for _, end := range []string{
		"/propagated-build-inputs", "/nix-support", "/perllocal.pod", "/info/dir", "/log", "/manifest.nix", "/manifest.json",
	} {
		if strings.HasSuffix(file, end) {
			return true
		}
	}
	return false
}

// link makes links in dst to what src has.
func (p *profile) link(src, dst string, priority int) error {
	entries, err := os.ReadDir(src)
	if errors.Is(err, syscall.ENOTDIR) {
		_, _ = fmt.Fprintf(p.log, "warning: not including '%s' in the user environment because it's not a directory\n", src)
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		from, to := filepath.Join(src, entry.Name()), filepath.Join(dst, entry.Name())
		if strings.HasPrefix(entry.Name(), ".") || left(from) {
			continue
		}
		info, err := os.Stat(from)
		if err != nil && absent(err) {
			_, _ = fmt.Fprintf(p.log, "warning: skipping dangling symlink '%s'\n", to)
			continue
		}
		if err != nil {
			return err
		}
		if err := p.enter(from, to, info.IsDir(), priority); err != nil {
			return err
		}
	}
	return nil
}

// enter links to one file or folder, which another package may have, too.
func (p *profile) enter(from, to string, isDir bool, priority int) error {
	there, err := os.Lstat(to)
	switch {
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return err
	case err != nil:
	case isDir && there.IsDir():
		return p.link(from, to, priority)
	case isDir:
		return p.merge(from, to, priority)
	case there.IsDir():
		return fmt.Errorf("collision between non-directory '%s' and directory '%s'", from, to)
	default:
		before := p.priorities[to]
		if before == priority {
			target, _ := os.Readlink(to)
			return fmt.Errorf("packages '%s' and '%s' have the same priority %d; use 'nix-env --set-flag priority NUMBER INSTALLED_PKGNAME' "+
				"to change the priority of one of the conflicting packages (0 being the highest priority)", from, target, priority)
		}
		if before < priority {
			return nil
		}
		if err := os.Remove(to); err != nil {
			return err
		}
	}
	p.priorities[to] = priority
	return os.Symlink(from, to)
}

// merge makes a folder of a link to one, with what both have.
func (p *profile) merge(from, to string, priority int) error {
	target, err := filepath.EvalSymlinks(to)
	if err != nil {
		return err
	}
	if info, err := os.Stat(target); err != nil {
		return err
	} else if !info.IsDir() {
		return fmt.Errorf("collision between '%s' and non-directory '%s'", from, target)
	}
	before := p.priorities[to]
	if err := os.Remove(to); err != nil {
		return err
	}
	if err := os.Mkdir(to, 0o755); err != nil { //nolint:gosec // in a store path
		return err
	}
	if err := p.link(target, to, before); err != nil {
		return err
	}
	return p.link(from, to, priority)
}
