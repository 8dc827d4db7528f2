// Package worker is a client of the worker protocol, as of nix-daemon, that is written for tests alone: it costs next to
// nothing, so that what is measured is the server.
package worker

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/narfs/narfs/tests/env/closure"
)

// The operations that the client knows.
const (
	addToStore         = 7
	queryPathInfo      = 26
	addMultipleToStore = 44
)

const (
	clientMagic = 0x6e697863
	serverMagic = 0x6478696f
	version     = 1<<8 | 34 // that of Nix 2.8, which all servers speak

	stderrNext  = 0x6f6c6d67
	stderrLast  = 0x616c7473
	stderrError = 0x63787470
)

// Client is a connection to a server. After an error of any method it is good for nothing.
type Client struct {
	r    *bufio.Reader
	w    *closure.Writer
	conn net.Conn
}

// Dial connects to a server's socket and does the handshake. Close ends the connection.
func Dial(ctx context.Context, socket string) (*Client, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	c := &Client{r: bufio.NewReaderSize(conn, 64<<10), w: closure.NewWriter(conn), conn: conn}
	if err := c.greet(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return c, nil
}

func (c *Client) greet() error {
	c.w.Number(clientMagic)
	if err := c.w.Flush(); err != nil {
		return err
	}
	magic, err := c.number()
	if err == nil && magic != serverMagic {
		err = fmt.Errorf("the server's magic number is %#x", magic)
	}
	if err != nil {
		return err
	}
	if _, err := c.number(); err != nil { // its version
		return err
	}
	c.w.Number(version)
	c.w.Number(0) // no processor to run on
	c.w.Number(0) // no space to reserve
	if err := c.w.Flush(); err != nil {
		return err
	}
	if _, err := c.text(); err != nil { // the server's program
		return err
	}
	return c.last()
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

func (c *Client) number() (uint64, error) {
	var buf [8]byte
	_, err := io.ReadFull(c.r, buf[:])
	return binary.LittleEndian.Uint64(buf[:]), err
}

// most is the most of anything that a server may send here.
const most = 1 << 20

func (c *Client) text() (string, error) {
	n, err := c.number()
	if err != nil {
		return "", err
	}
	if n > most {
		return "", fmt.Errorf("a string of %d bytes", n)
	}
	buf := make([]byte, (n+7)/8*8)
	if _, err := io.ReadFull(c.r, buf); err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func (c *Client) list() error {
	n, err := c.number()
	for ; err == nil && n > 0; n-- {
		_, err = c.text()
	}
	return err
}

// last sends what was written, and reads all that comes before a result.
func (c *Client) last() error {
	if err := c.w.Flush(); err != nil {
		return err
	}
	for {
		message, err := c.number()
		if err != nil {
			return err
		}
		switch message {
		case stderrLast:
			return nil
		case stderrNext:
			if _, err := c.text(); err != nil {
				return err
			}
		case stderrError:
			return c.failure()
		default:
			return fmt.Errorf("the server sends message %#x", message)
		}
	}
}

// failure reads what the server says that was wrong.
func (c *Client) failure() error {
	_, err := c.text() // Error
	if err == nil {
		_, err = c.number() // level
	}
	if err == nil {
		_, err = c.text() // Error, again
	}
	if err != nil {
		return err
	}
	text, err := c.text()
	if err != nil {
		return err
	}
	return errors.New("the server says: " + text)
}

// info reads what is known of a path.
func (c *Client) info() error {
	_, err := c.text() // deriver
	if err == nil {
		_, err = c.text() // hash
	}
	if err == nil {
		err = c.list() // references
	}
	for range 3 { // time, size, whether it was built here
		if err == nil {
			_, err = c.number()
		}
	}
	if err == nil {
		err = c.list() // signatures
	}
	if err == nil {
		_, err = c.text() // content address
	}
	return err
}

// PathInfo asks what is known of a path, which must be valid.
func (c *Client) PathInfo(path string) error {
	c.w.Number(queryPathInfo)
	c.w.Text(path)
	if err := c.last(); err != nil {
		return err
	}
	valid, err := c.number()
	if err == nil && valid == 0 {
		err = fmt.Errorf("%s is not valid", path)
	}
	if err != nil {
		return err
	}
	return c.info()
}

// AddText adds a file that refers to paths, as nix-instantiate adds derivations, and returns its path.
func (c *Client) AddText(name, text string, references []string) (string, error) {
	return c.add(name, "text:sha256", references, []byte(text))
}

// AddFile adds a file as nix-store --add does: by the NAR that it makes. It returns its path.
func (c *Client) AddFile(name string, nar []byte) (string, error) {
	return c.add(name, "fixed:r:sha256", nil, nar)
}

func (c *Client) add(name, method string, references []string, contents []byte) (string, error) {
	c.w.Number(addToStore)
	c.w.Text(name, method)
	c.w.List(references)
	c.w.Number(0) // no repair
	if err := c.frame(contents); err != nil {
		return "", err
	}
	c.w.Number(0)
	if err := c.last(); err != nil {
		return "", err
	}
	path, err := c.text()
	if err != nil {
		return "", err
	}
	return path, c.info()
}

func (c *Client) frame(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	c.w.Number(uint64(len(p)))
	_, err := c.w.Write(p)
	return err
}

// frames writes what it is given as frames of a good size.
type frames struct{ c *Client }

// Write implements io.Writer.
func (f frames) Write(p []byte) (int, error) { return len(p), f.c.frame(p) }

// Copy adds all objects in one operation, as nix copy does.
func (c *Client) Copy(all *closure.Closure) error {
	c.w.Number(addMultipleToStore)
	c.w.Number(0) // no repair
	c.w.Number(1) // no signatures
	inside := closure.NewWriter(frames{c})
	inside.Number(uint64(len(all.Objects)))
	for _, o := range all.Objects {
		inside.Text(o.Path, o.Deriver, hex.EncodeToString(o.Hash[:]))
		inside.List(o.References)
		inside.Number(0)
		inside.Number(uint64(o.Size))
		inside.Number(0)
		inside.List(nil)
		inside.Text(o.CA)
		if err := o.WriteNAR(inside); err != nil {
			return err
		}
	}
	if err := inside.Flush(); err != nil {
		return err
	}
	c.w.Number(0)
	return c.last()
}
