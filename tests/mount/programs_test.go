package mount_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/narfs/narfs/tests/env"
)

// TestPrograms: programs run from the mount, and compile what is in it.
func TestPrograms(t *testing.T) {
	env.Require(t, env.Fuse())
	work := env.Dir(t)
	store := env.NewStore(t)
	mount := store.Mount()

	t.Run("exec", func(t *testing.T) {
		program := filepath.Join(mount.Dir, add(t, store, "--name", "narfs", env.Binary(t)))
		if got := env.Must(t, exec.CommandContext(t.Context(), program, "version")); !strings.HasPrefix(got, "narfs ") {
			t.Errorf("narfs version from the mount = %q", got)
		}
		write(t, filepath.Join(work, "script"), "#!/bin/sh\necho $1 $0\n", 0o755)
		script := filepath.Join(mount.Dir, add(t, store, filepath.Join(work, "script")))
		if got, want := env.Must(t, exec.CommandContext(t.Context(), script, "hi")), "hi "+script; got != want {
			t.Errorf("a script in the mount printed %q; want %q", got, want)
		}
		write(t, filepath.Join(work, "data"), "#!/bin/sh\n", 0o644)
		if err := exec.CommandContext(t.Context(), filepath.Join(mount.Dir, add(t, store, filepath.Join(work, "data")))).Run(); err == nil {
			t.Error("a file without executable bit ran")
		}
	})
	t.Run("C", func(t *testing.T) {
		needC(t)
		headers := filepath.Join(mount.Dir, add(t, store, "--name", "headers", "/usr/include"))
		own := filepath.Join(mount.Dir, add(t, store, "--name", "compiler-headers", shell(t, "gcc -print-file-name=include")))
		sources := filepath.Join(mount.Dir, add(t, store, cProject(t, mkdir(t, work, "c"))))
		got := shell(t, `cd "$4"
make -s -j2 -f "$3/Makefile" CC=gcc CPPFLAGS="-nostdinc -isystem $2 -isystem $1/$(gcc -print-multiarch) -isystem $1"
grep -q "$1/stdio.h" unit7.d
grep -q "$3/include/unit.h" unit7.d
./program`, headers, own, sources, mkdir(t, work, "out"))
		if got != cPrints {
			t.Errorf("the program printed %q; want %q", got, cPrints)
		}
	})
	t.Run("Go", func(t *testing.T) {
		env.Require(t, env.Program("go"), env.Program("git"))
		source := mkdir(t, work, "narfs")
		checkout := filepath.Dir(shell(t, "go env GOMOD"))
		if got := env.Run(t, exec.CommandContext(t.Context(), "git", "-C", checkout, "rev-parse")); got.Code != 0 {
			t.Skipf("needs a checkout: %s", got.Stderr)
		}
		shell(t, `git -C "$1" ls-files -z | tar -C "$1" --null -T - -c | tar -C "$2" -x`, checkout, source)
		sources := filepath.Join(mount.Dir, add(t, store, source))
		program := filepath.Join(work, "built")
		build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", program, "./cmd/narfs") // as scripts/test
		build.Dir = sources
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "PWD="+sources)
		env.Must(t, build)
		if got := env.Must(t, exec.CommandContext(t.Context(), program, "version")); !strings.HasPrefix(got, "narfs ") {
			t.Errorf("narfs built from the mount prints %q", got)
		}
	})
	mount.Unmount()
}

func needC(t *testing.T) {
	t.Helper()
	env.Require(t, env.Program("gcc"), env.Program("make"))
	if _, err := os.Stat("/usr/include/stdio.h"); err != nil {
		t.Skipf("needs the headers of C: %v", err)
	}
}

// cPrints is what the program of cProject prints.
const cPrints = "20540 of 40, 1"

// cProject makes the sources of a C program of 40 units, to be built with make.
func cProject(t *testing.T, dir string) string {
	t.Helper()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "cproject"))); err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		write(t, filepath.Join(dir, fmt.Sprintf("unit%d.c", i)), fmt.Sprintf("#include \"unit.h\"\n\nDEFINE_UNIT(%d)\n", i), 0o644)
	}
	return dir
}

// A compiler with all that it needs, in the places that it has in the system: programs, their libraries, headers, and what
// is linked to every program.
const copyCompiler = `
mkdir -p "$1/usr/bin" "$1/usr/lib" "$1/usr/lib64"
for dir in bin lib lib64; do ln -s "usr/$dir" "$1/$dir"; done
root=$1
copy() { for file; do mkdir -p "$root$(dirname "$file")" && cp -L "$file" "$root$file"; done; }
path() { realpath -s "$(gcc "$1")"; }
for name in gcc make ar as ld sh mv; do
	file=$(command -v "$name")
	cp -L "$file" "$root/usr/bin/$name"
	copy $(ldd "$file" | grep -o '/[^ ]*')
done
for name in cc1 collect2; do
	file=$(path -print-prog-name=$name)
	copy "$file" $(ldd "$file" | grep -o '/[^ ]*')
done
for name in crt1.o Scrt1.o crti.o crtn.o crtbegin.o crtbeginS.o crtend.o crtendS.o liblto_plugin.so \
	libgcc.a libgcc_s.so libgcc_s.so.1 libc.so libc.so.6 libc_nonshared.a libm.so libm.so.6 libmvec.so.1; do
	file=$(path -print-file-name=$name)
	case $file in
	"$PWD"/*) ;; # not here
	*) copy "$file" ;;
	esac
done
mkdir -p "$root$(dirname "$(path -print-file-name=include)")"
cp -a "$(path -print-file-name=include)" "$root$(path -print-file-name=include)"
cp -a /usr/include "$root/usr/include"
`

// TestCompilerInMount: make, the compiler, the linker, their libraries, the headers and the sources are all read from the
// mount, and so are the libraries of the program that they make: there is nothing else in the root folder that they see.
func TestCompilerInMount(t *testing.T) {
	env.Require(t, env.Fuse(), env.Root(), env.Program("unshare"), env.Program("mount"), env.Program("chroot"))
	needC(t)
	work := env.Dir(t)
	store := env.NewStore(t)
	compiler := mkdir(t, work, "compiler")
	shell(t, copyCompiler, compiler)
	compiler = add(t, store, compiler)
	sources := add(t, store, cProject(t, mkdir(t, work, "c")))
	mount := store.Mount()
	got := shell(t, `
unshare --mount sh -ec '
mount -t tmpfs none "$3"
cp -P "$1/bin" "$1/lib" "$1/lib64" "$3"
mkdir "$3/usr" "$3/src" "$3/out" "$3/tmp"
mount --bind "$1/usr" "$3/usr"
mount --bind "$2" "$3/src"
chroot=$(command -v chroot)
export PATH=/usr/bin
"$chroot" "$3" /usr/bin/make -s -C /out -j2 -f /src/Makefile CC=gcc
"$chroot" "$3" /out/program
' sh "$@"`, filepath.Join(mount.Dir, compiler), filepath.Join(mount.Dir, sources), mkdir(t, work, "root"))
	if got != cPrints {
		t.Errorf("the program printed %q; want %q", got, cPrints)
	}
	mount.Unmount()
}

// TestGoInMount: Go itself, run from the mount, compiles its runtime and library from there, with no cache.
func TestGoInMount(t *testing.T) {
	env.Require(t, env.Fuse(), env.Program("go"), env.Long())
	work := env.Dir(t)
	store := env.NewStore(t)
	source := mkdir(t, work, "hello")
	write(t, filepath.Join(source, "go.mod"), "module example.org/hello\n\ngo 1.21\n", 0o644)
	write(t, filepath.Join(source, "main.go"), "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(\"hello\") }\n", 0o644)
	root, sources := add(t, store, "--name", "go", shell(t, "go env GOROOT")), add(t, store, source)
	mount := store.Mount()
	got := shell(t, `export GOROOT=$1 GOCACHE=$3/cache GOFLAGS= CGO_ENABLED=0 PATH=/usr/bin:/bin
cd "$2"
"$GOROOT/bin/go" build -o "$3/hello" .
"$3/hello"`, filepath.Join(mount.Dir, root), filepath.Join(mount.Dir, sources), mkdir(t, work, "out"))
	if got != "hello" {
		t.Errorf("the program printed %q; want hello", got)
	}
	mount.Unmount()
}
