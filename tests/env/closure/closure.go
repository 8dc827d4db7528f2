package closure

import (
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
)

// Closure is a set of objects with all that they refer to, each after its references. The last one refers to all others,
// through others or by itself.
type Closure struct{ Objects []*Object }

// Top returns the path of the last object.
func (c *Closure) Top() string { return c.Objects[len(c.Objects)-1].Path }

// Paths returns the paths of all objects.
func (c *Closure) Paths() []string {
	paths := make([]string, len(c.Objects))
	for i, o := range c.Objects {
		paths[i] = o.Path
	}
	return paths
}

// Size returns the size of all NARs.
func (c *Closure) Size() int64 {
	var size int64
	for _, o := range c.Objects {
		size += o.Size
	}
	return size
}

// Export writes the closure as nix-store --export does. That format knows no content addresses.
func (c *Closure) Export(w io.Writer) error {
	out := NewWriter(w)
	for _, o := range c.Objects {
		out.Number(1)
		if err := out.Flush(); err != nil {
			return err
		}
		if err := o.WriteNAR(w); err != nil {
			return err
		}
		const magic = 0x4558494e
		out.Number(magic)
		out.Text(o.Path)
		out.List(o.References)
		out.Text(o.Deriver)
		out.Number(0) // no signature, which it had in the past
	}
	out.Number(0)
	return out.Flush()
}

// top appends an object that refers to all that nothing refers to.
func (c *Closure) top(salt string) error {
	referred := map[string]bool{}
	for _, o := range c.Objects {
		for _, r := range o.References {
			referred[r] = referred[r] || r != o.Path
		}
	}
	var roots []string
	for _, o := range c.Objects {
		if !referred[o.Path] {
			roots = append(roots, o.Path)
		}
	}
	o, err := inputAddressed(salt, "top", roots, func(string) node { return file{text: strings.Join(roots, "\n")} })
	c.Objects = append(c.Objects, o)
	return err
}

// Many returns a closure of n small objects, about 12 KB each, of all kinds, with up to eight references each. Another
// salt makes others.
func Many(n int, salt string) (*Closure, error) {
	c := &Closure{}
	for i := range n - 1 {
		rng := rand.New(rand.NewChaCha8(seed(salt, i)))
		name := fmt.Sprintf("package-%d-%d.%d", i, rng.IntN(9), rng.IntN(30))
		references := c.choose(rng)
		var o *Object
		var err error
		switch i % 4 {
		case 0:
			o, err = textObject(name+".drv.txt", references, strings.Join(references, "\n")+"\n"+prose(rng, 2000))
		case 1:
			o, err = source(name+"-source", references, smallTree(rng, references))
		default:
			o, err = inputAddressed(salt, name, references, func(self string) node {
				if i%4 == 3 {
					return smallTree(rng, references)
				}
				return smallTree(rng, append(references, self))
			})
			if i%4 == 2 {
				o.References = withSelf(o)
			}
		}
		if err != nil {
			return nil, err
		}
		c.Objects = append(c.Objects, o)
	}
	return c, c.top(salt)
}

// Large returns what Many does, and in the middle of it an object of so many bytes, which do not compress.
func Large(n int, size int64, salt string) (*Closure, error) {
	c, err := Many(n-2, salt)
	if err != nil {
		return nil, err
	}
	references := []string{c.Objects[len(c.Objects)/2].Path}
	large, err := inputAddressed(salt, "large", references, func(string) node {
		return folder{{"data", noise{seed(salt, n), size}}, {"references", file{text: references[0]}}}
	})
	if err != nil {
		return nil, err
	}
	c.Objects = append(c.Objects, large)
	return c, c.top("large " + salt)
}

// choose returns references to earlier objects, most of them to young ones.
func (c *Closure) choose(rng *rand.Rand) []string {
	chosen := map[string]bool{}
	if len(c.Objects) > 0 {
		for range rng.IntN(9) {
			back := int(rng.ExpFloat64() * 40)
			if back >= len(c.Objects) {
				back = rng.IntN(len(c.Objects))
			}
			chosen[c.Objects[len(c.Objects)-1-back].Path] = true
		}
	}
	return sorted(chosen)
}

// Trees returns a closure of folders of the file system, one object each, chained: each refers to those before it that
// are one, two, four, … back.
func Trees(salt string, dirs []string) (*Closure, error) {
	c := &Closure{}
	for i, dir := range dirs {
		var references []string
		for back := 1; back <= i; back *= 2 {
			references = append(references, c.Objects[i-back].Path)
		}
		o, err := inputAddressed(salt, fmt.Sprintf("%d-%s", i, clean(filepath.Base(dir))), references, func(self string) node {
			return folder{{"references", file{text: strings.Join(append(references, self), "\n")}}, {"tree", disk(dir)}}
		})
		if err != nil {
			return nil, err
		}
		o.References = withSelf(o)
		c.Objects = append(c.Objects, o)
	}
	return c, c.top(salt)
}

// Mixed returns a small closure with everything that is special somewhere: several outputs of a derivation, references
// to itself, content addresses of all kinds, names that differ in case alone, links, executables, nothing at all.
func Mixed(salt string) (*Closure, error) {
	c := &Closure{}
	var err error
	add := func(o *Object, addErr error) string {
		if err == nil {
			err = addErr
		}
		if addErr == nil {
			c.Objects = append(c.Objects, o)
		}
		return o.Path
	}
	tarball := add(fixed("hello-2.12.tar.gz", "not really one "+salt))
	setup := add(textObject("setup.sh", []string{tarball}, "tar xf "+tarball+" # "+salt))
	src := add(source("hello-src", nil, folder{
		{"Conf.h", file{text: "#define CONF 1\n"}},
		{"README", file{text: "read me " + salt}},
		{"bin", folder{{"run", file{executable: true, text: "#!/bin/sh\nexec true\n"}}}},
		{"conf.h", file{text: "#define CONF 2\n"}},
		{"empty", file{}},
		{"nothing", folder{}},
		{"readme", link("README")},
	}))
	patched := add(source("hello-patched", []string{setup, src}, folder{{"from", link(src + "/bin")}, {"setup", file{text: setup}}}))
	deriver := storePath("text", salt, "hello-2.12.drv")
	lib := add(inputAddressed(salt, "hello-2.12-lib", nil, func(self string) node {
		return folder{{"lib", folder{{"libhello.la", file{text: "libdir=" + self + "/lib\n"}}, {"libhello.so", link("libhello.so.1")}}}}
	}))
	c.Objects[len(c.Objects)-1].References = []string{lib}
	add(inputAddressed(salt, "hello-2.12-dev", []string{lib, patched}, func(string) node {
		return folder{{"include", folder{{"Hello.h", file{text: "1"}}, {"hello.h", file{text: "2"}}}}, {"lib", link(lib)}, {"src", file{text: patched}}}
	}))
	add(inputAddressed(salt, "hello-2.12", []string{lib}, func(self string) node {
		return folder{{"bin", folder{{"hello", file{executable: true, text: "#!" + self + "/bin/sh\n" + lib}}}}}
	}))
	out := c.Objects[len(c.Objects)-1]
	out.References = withSelf(out)
	for _, o := range c.Objects[len(c.Objects)-3:] {
		o.Deriver = deriver
	}
	add(inputAddressed(salt, "only-a-link", []string{out.Path}, func(string) node { return link(out.Path + "/bin/hello") }))
	add(inputAddressed(salt, "only-an-executable", nil, func(string) node { return file{executable: true} }))
	if err != nil {
		return nil, err
	}
	return c, c.top(salt)
}
