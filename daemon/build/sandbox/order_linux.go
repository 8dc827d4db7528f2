package sandbox

import (
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"github.com/narfs/narfs/internal/wire"
)

// order is what the child is told.
type order struct {
	Spec       Spec // without Log and CPU
	DropGroups bool
	Bare       bool // the keeper is in the user namespace of the process that calls Run
	Probe      bool // only set up
}

// code writes or reads all fields. What encoding/gob does at the beginning of a process would take as long as all else there.
func (o *order) code(c *coder) {
	s := &o.Spec
	for _, b := range []*bool{&o.DropGroups, &o.Bare, &o.Probe, &s.Sandboxed, &s.Network, &s.KVM, &s.Cgroup} {
		c.bool(b)
	}
	for _, t := range []*string{
		&s.StoreDir, &s.StoreMount, &s.Outputs, &s.BuildDir, &s.BuildDirInside, &s.TmpDir, &s.Builder, &s.Dir, &s.ShmSize,
	} {
		c.text(t)
	}
	c.int(&s.UID)
	c.int(&s.GID)
	for _, list := range []*[]string{&s.Inputs, &s.Args, &s.Env} {
		for i := range coded(c, list) {
			c.text(&(*list)[i])
		}
	}
	for i := range coded(c, &s.Binds) {
		b := &s.Binds[i]
		c.text(&b.Source)
		c.text(&b.Target)
		c.bool(&b.Optional)
		c.bool(&b.ReadOnly)
	}
}

// coder writes, or reads if r is set. After an error it does nothing.
type coder struct {
	w   *wire.Writer
	r   *wire.Reader
	err error
}

func (c *coder) number(n *uint64) {
	switch {
	case c.err != nil:
	case c.r != nil:
		*n, c.err = c.r.Uint64()
	default:
		c.err = c.w.Uint64(*n)
	}
}

func (c *coder) int(n *int) {
	u := uint64(*n)
	c.number(&u)
	*n = int(u)
}

func (c *coder) bool(b *bool) {
	var u uint64
	if *b {
		u = 1
	}
	c.number(&u)
	*b = u != 0
}

func (c *coder) text(s *string) {
	switch {
	case c.err != nil:
	case c.r != nil:
		*s, c.err = c.r.String(math.MaxInt32, "text")
	default:
		c.err = c.w.String(*s)
	}
}

// coded writes or reads how long a list is, and returns it with that length.
func coded[E any](c *coder, list *[]E) []E {
	n := len(*list)
	c.int(&n)
	if c.err != nil {
		return nil
	}
	if c.r != nil && n > 0 {
		*list = make([]E, n)
	}
	return *list
}

// sealed returns a file in memory that holds o.
func sealed(o order) (*os.File, error) {
	fd, err := unix.MemfdCreate(childName, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), childName)
	c := &coder{w: wire.NewWriter(f)}
	if o.code(c); c.err == nil {
		c.err = c.w.Flush()
	}
	if c.err != nil {
		_ = f.Close()
		return nil, c.err
	}
	return f, nil
}

// readOrder reads what sealed has written, from the beginning.
func readOrder(f *os.File) (o order, err error) {
	c := &coder{r: wire.NewReader(io.NewSectionReader(f, 0, math.MaxInt64))}
	o.code(c)
	return o, step("read what to run", c.err)
}
