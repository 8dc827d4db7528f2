// Package serve is a client of the serve protocol, as of nix-store --serve, that is written for tests alone: it does
// exactly what it is told, sees each reply, and can be stopped anywhere.
package serve

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/narfs/narfs/tests/env/closure"
)

// The commands of the protocol that the client knows.
const (
	QueryValidPaths = 1
	QueryPathInfos  = 2
	DumpStorePath   = 3
	ImportPaths     = 4
	ExportPaths     = 5
	QueryClosure    = 7
	AddToStoreNar   = 9
)

// Version is the version that the client speaks: 2.7.
const Version = 2<<8 | 7

const (
	clientMagic = 0x390c9deb
	serverMagic = 0x5452eecb
)

// Client is a connection to a server. After an error of any method it is out of step and good for nothing.
type Client struct {
	R *bufio.Reader
	W *closure.Writer

	Server uint64 // the server's version
}

// Open does the handshake.
func Open(r io.Reader, w io.Writer) (*Client, error) {
	c := &Client{R: bufio.NewReaderSize(r, 64<<10), W: closure.NewWriter(w)}
	c.W.Number(clientMagic)
	c.W.Number(Version)
	magic, err := c.flushed()
	if err == nil && magic != serverMagic {
		err = fmt.Errorf("the server's magic number is %#x", magic)
	}
	if err == nil {
		c.Server, err = c.Number()
	}
	return c, err
}

// flushed sends what was written and reads a number.
func (c *Client) flushed() (uint64, error) {
	if err := c.W.Flush(); err != nil {
		return 0, err
	}
	return c.Number()
}

// Number reads an integer.
func (c *Client) Number() (uint64, error) {
	var buf [8]byte
	if _, err := io.ReadFull(c.R, buf[:]); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(buf[:]), nil
}

// most is the most of anything that a server may send here.
const most = 1 << 20

func (c *Client) text() (string, error) {
	n, err := c.Number()
	if err != nil {
		return "", err
	}
	if n > most {
		return "", fmt.Errorf("a string of %d bytes", n)
	}
	buf := make([]byte, (n+7)/8*8)
	if _, err := io.ReadFull(c.R, buf); err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func (c *Client) list() ([]string, error) {
	n, err := c.Number()
	if err != nil {
		return nil, err
	}
	if n > most {
		return nil, fmt.Errorf("a list of %d strings", n)
	}
	list := make([]string, 0, n)
	for range n {
		s, err := c.text()
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

func flag(set bool) uint64 {
	if set {
		return 1
	}
	return 0
}

// ValidPaths asks which of some paths are valid; lock asks to keep all of them until the end of the session.
func (c *Client) ValidPaths(lock bool, paths []string) ([]string, error) {
	c.W.Number(QueryValidPaths)
	c.W.Number(flag(lock))
	c.W.Number(0) // do not substitute
	c.W.List(paths)
	if err := c.W.Flush(); err != nil {
		return nil, err
	}
	return c.list()
}

// Info is what a server says about a path.
type Info struct {
	Path, Deriver, Hash, CA string
	References, Signatures  []string
	Size                    uint64
}

// PathInfos asks about paths, in one request.
func (c *Client) PathInfos(paths []string) ([]Info, error) {
	c.W.Number(QueryPathInfos)
	c.W.List(paths)
	if err := c.W.Flush(); err != nil {
		return nil, err
	}
	var infos []Info
	for {
		path, err := c.text()
		if err != nil || path == "" {
			return infos, err
		}
		i := Info{Path: path}
		err = c.read(&i.Deriver, &i.References)
		if err == nil {
			_, err = c.Number() // the size of a download
		}
		if err == nil {
			i.Size, err = c.Number()
		}
		if err == nil {
			err = c.read(&i.Hash, &i.CA, &i.Signatures)
		}
		if err != nil {
			return infos, err
		}
		infos = append(infos, i)
	}
}

// read reads strings and lists into variables.
func (c *Client) read(into ...any) (err error) {
	for _, v := range into {
		switch v := v.(type) {
		case *string:
			*v, err = c.text()
		case *[]string:
			*v, err = c.list()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Closure asks for all that paths refer to.
func (c *Client) Closure(paths []string) ([]string, error) {
	c.W.Number(QueryClosure)
	c.W.Number(0) // without the outputs of derivations
	c.W.List(paths)
	if err := c.W.Flush(); err != nil {
		return nil, err
	}
	return c.list()
}

// Dump writes the NAR of a path, whose size must be known: the protocol does not tell.
func (c *Client) Dump(path string, size uint64, w io.Writer) error {
	c.W.Number(DumpStorePath)
	c.W.Text(path)
	if err := c.W.Flush(); err != nil {
		return err
	}
	_, err := io.CopyN(w, c.R, int64(size))
	return err
}

// Add sends an object and returns when the server has acknowledged it.
func (c *Client) Add(o *closure.Object) error {
	if err := c.SendAdd(o, nil); err != nil {
		return err
	}
	return c.Acknowledged()
}

// SendAdd sends an object and does not wait for the reply. If through is not nil the NAR goes through it, which may
// fail anywhere.
func (c *Client) SendAdd(o *closure.Object, through func(io.Writer) io.Writer) error {
	c.AddHead(o)
	var w io.Writer = c.W
	if through != nil {
		w = through(c.W)
	}
	return errors.Join(o.WriteNAR(w), c.W.Flush())
}

// AddHead sends all of AddToStoreNar but the NAR.
func (c *Client) AddHead(o *closure.Object) {
	c.W.Number(AddToStoreNar)
	c.W.Text(o.Path, o.Deriver, hex.EncodeToString(o.Hash[:]))
	c.W.List(o.References)
	c.W.Number(0) // registration time
	c.W.Number(uint64(o.Size))
	c.W.Number(0) // not ultimate
	c.W.List(nil) // signatures
	c.W.Text(o.CA)
}

// Acknowledged reads the reply to AddToStoreNar and ImportPaths.
func (c *Client) Acknowledged() error {
	n, err := c.Number()
	if err == nil && n != 1 {
		err = fmt.Errorf("the reply is %d, not 1", n)
	}
	return err
}
