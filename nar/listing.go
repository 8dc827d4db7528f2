package nar

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"
)

// ErrNotUTF8 says that a listing cannot hold a name or symlink target, since
// JSON holds nothing but UTF-8. (Nix 2.8 writes such bytes as they are, which is
// not JSON; newer ones fail, too.)
var ErrNotUTF8 = errors.New("not valid UTF-8, which a JSON listing requires")

// WriteListing writes the JSON listing of a NAR as Nix stores it beside the NAR
// in a binary cache (.ls), byte for byte as Nix 2.8 does:
//
//	{"version":1,"root":NODE}
//
//	NODE  {"type":"regular","size":N,"narOffset":N}, with "executable":true
//	      after the size of an executable file; narOffset is that of the contents
//	      {"type":"symlink","target":"…"}
//	      {"type":"directory","entries":{"NAME":NODE,…}}
func WriteListing(w io.Writer, t *Tree) error {
	l := listing{tree: t, offsets: t.Offsets(), out: bufio.NewWriter(w)}
	_, _ = l.out.WriteString(`{"version":1,"root":`) // the writer keeps its error for Flush
	if err := l.node(0); err != nil {
		return err
	}
	_, _ = l.out.WriteString(`}`)
	return l.out.Flush()
}

type listing struct {
	tree    *Tree
	offsets []int64
	out     *bufio.Writer
	buf     []byte
}

// node writes node i and everything below; a Tree is at most MaxDepth deep.
func (l *listing) node(i uint32) error {
	b := append(l.buf[:0], `{"type":"`...)
	b = append(b, l.tree.Type(i).String()...)
	b = append(b, '"')
	var err error
	switch l.tree.Type(i) {
	case TypeRegular:
		b = append(b, `,"size":`...)
		b = strconv.AppendInt(b, l.tree.Size(i), 10)
		if l.tree.Executable(i) {
			b = append(b, `,"executable":true`...)
		}
		b = append(b, `,"narOffset":`...)
		b = strconv.AppendInt(b, l.offsets[i], 10)
	case TypeSymlink:
		b = append(b, `,"target":`...)
		b, err = appendJSON(b, l.tree.Target(i))
	case TypeDirectory:
		b = append(b, `,"entries":{`...)
		if err := l.write(b); err != nil {
			return err
		}
		if err := l.entries(i); err != nil {
			return err
		}
		b = append(l.buf[:0], '}')
	}
	if err != nil {
		return fmt.Errorf("list %q: symlink target is %w", l.tree.Path(i), err)
	}
	return l.write(append(b, '}'))
}

func (l *listing) entries(i uint32) error {
	first, n := l.tree.Children(i)
	for c := first; c < first+n; c++ {
		b := l.buf[:0]
		if c > first {
			b = append(b, ',')
		}
		b, err := appendJSON(b, l.tree.Name(c))
		if err != nil {
			return fmt.Errorf("list %q: name is %w", l.tree.Path(c), err)
		}
		if err := l.write(append(b, ':')); err != nil {
			return err
		}
		if err := l.node(c); err != nil {
			return err
		}
	}
	return nil
}

func (l *listing) write(b []byte) error {
	l.buf = b
	_, err := l.out.Write(b)
	return err
}

// appendJSON appends s as a JSON string with the escapes that Nix uses.
func appendJSON(b []byte, s string) ([]byte, error) {
	if !utf8.ValidString(s) {
		return b, ErrNotUTF8
	}
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\r':
			b = append(b, `\r`...)
		case c == '\t':
			b = append(b, `\t`...)
		case c < ' ':
			b = fmt.Appendf(b, `\u%04x`, c)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"'), nil
}
