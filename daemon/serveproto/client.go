package serveproto

import (
	"cmp"
	"errors"
	"fmt"
	"io"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nixwire"
	"github.com/narfs/narfs/internal/wire"
)

// Client is the client's side of a connection. Its methods must not be called concurrently. After an error, which the other side
// explains on its error output, the connection is of no further use.
type Client struct {
	*Conn

	adding *adding // paths that are being added, or nil
}

// Open is the client's half of the handshake.
func Open(r io.Reader, w io.Writer, dir nix.StoreDir) (*Client, error) {
	c := &Conn{Conn: nixwire.Conn{R: wire.NewReader(r), W: wire.NewWriter(w), Dir: dir}}
	_ = c.W.Uint64(ClientMagic) // the writer keeps its first error
	_ = c.W.Uint64(Latest.Number())
	sent := c.W.Flush()
	// Who has ended already may have said something before, which tells more.
	magic, err := c.R.Uint64()
	if sent != nil && (err != nil || magic == ServerMagic) {
		return nil, fmt.Errorf("handshake: %w", sent)
	}
	if err != nil {
		return nil, fmt.Errorf("handshake: %w", nixwire.Unexpected(err))
	}
	if magic != ServerMagic {
		return nil, fmt.Errorf("handshake: %w: the other side does not begin as a Nix store does, but with %q", ErrMismatch, firstBytes(magic))
	}
	v, err := c.R.Uint64()
	if err != nil {
		return nil, fmt.Errorf("handshake: %w", nixwire.Unexpected(err))
	}
	if v>>8 != uint64(Latest.Major) {
		return nil, fmt.Errorf("the other side speaks version %d.%d of the protocol, and this one %v", v>>8, v&0xff, Latest)
	}
	c.Version = lesser(v)
	return &Client{Conn: c}, nil
}

// firstBytes is a number as it came: a shell's greeting, most likely.
func firstBytes(magic uint64) string {
	b := make([]byte, 8)
	for i := range b {
		b[i] = byte(magic >> (8 * i))
	}
	return string(b)
}

// ask sends a command with its arguments.
func (c *Client) ask(command Command, arguments func()) error {
	if c.adding != nil {
		if err := c.Finish(); err != nil {
			return err
		}
	}
	_ = c.W.Uint64(uint64(command)) // the writer keeps its first error
	arguments()
	if err := c.W.Flush(); err != nil {
		return fmt.Errorf("%v: %w", command, err)
	}
	return nil
}

// failed says what was being done.
func failed(command Command, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%v: %w", command, nixwire.Unexpected(err))
}

// QueryValidPaths returns those of paths that are valid there. With lock, they are kept there until the end of the connection, and
// with substitute the missing ones are got from elsewhere first.
func (c *Client) QueryValidPaths(paths []nix.StorePath, lock, substitute bool) ([]nix.StorePath, error) {
	err := c.ask(QueryValidPaths, func() {
		_ = c.W.Bool(lock)
		_ = c.W.Bool(substitute)
		_ = c.WritePaths(paths)
	})
	if err != nil {
		return nil, err
	}
	valid, err := c.ReadPaths()
	return valid, failed(QueryValidPaths, err)
}

// QueryPathInfos returns what is known there of those of paths that are valid. Below version 2.4 the infos have no NAR hash.
func (c *Client) QueryPathInfos(paths []nix.StorePath) (infos []nix.PathInfo, err error) {
	if err := c.ask(QueryPathInfos, func() { _ = c.WritePaths(paths) }); err != nil {
		return nil, err
	}
	asked := make(map[nix.StorePath]struct{}, len(paths))
	for _, p := range paths {
		asked[p] = struct{}{}
	}
	for {
		p, err := c.ReadOptionalPath()
		if err != nil {
			return nil, failed(QueryPathInfos, err)
		}
		if p.IsZero() {
			return infos, nil
		}
		if _, ok := asked[p]; !ok {
			return nil, failed(QueryPathInfos, fmt.Errorf("an info comes about '%s', which was not asked for", c.Dir.Path(p)))
		}
		delete(asked, p)
		info, err := c.readPathInfo(p)
		if err != nil {
			return nil, failed(QueryPathInfos, fmt.Errorf("path '%s': %w", c.Dir.Path(p), err))
		}
		infos = append(infos, info)
	}
}

// QueryClosure returns paths, which must be valid there, and all that they refer to.
func (c *Client) QueryClosure(paths []nix.StorePath) ([]nix.StorePath, error) {
	err := c.ask(QueryClosure, func() {
		_ = c.W.Bool(false)
		_ = c.WritePaths(paths)
	})
	if err != nil {
		return nil, err
	}
	closure, err := c.ReadPaths()
	return closure, failed(QueryClosure, err)
}

// DumpStorePath asks for the NAR of a path that is valid there. Read must read exactly that from the reader it gets.
func (c *Client) DumpStorePath(p nix.StorePath, read func(r *wire.Reader) error) error {
	return c.DumpStorePaths([]nix.StorePath{p}, func(_ int, r *wire.Reader) error { return read(r) })
}

// maxAhead bounds the bytes of the requests that the other side has not begun to answer. They fit the smallest pipe, of one
// page, which is what users with many pipes get: so neither side ever waits until the other has read.
const maxAhead = 3 << 10

// DumpStorePaths asks for the NARs of paths that are valid there. Read is called with the number of each, in order, and must read
// exactly its NAR. The next ones are asked for meanwhile, so that they follow each other however long the way is.
func (c *Client) DumpStorePaths(paths []nix.StorePath, read func(i int, r *wire.Reader) error) error {
	if c.adding != nil {
		if err := c.Finish(); err != nil {
			return err
		}
	}
	size := func(i int) int { return 24 + len(c.Dir.Path(paths[i])) } // at most
	asked, ahead := 0, 0
	for i := range paths {
		if ahead < maxAhead*2/3 { // in groups, not one by one
			for ; asked < len(paths) && (asked == i || ahead+size(asked) <= maxAhead); asked++ {
				_ = c.W.Uint64(uint64(DumpStorePath)) // the writer keeps its first error
				_ = c.WritePath(paths[asked])
				ahead += size(asked)
			}
			if err := c.W.Flush(); err != nil {
				return failed(DumpStorePath, err)
			}
		}
		if err := read(i, c.R); err != nil {
			return failed(DumpStorePath, err)
		}
		ahead -= size(i)
	}
	return nil
}

// BuildDerivation has a derivation built, whose inputs are valid there. What its builder says comes on the other side's error output.
func (c *Client) BuildDerivation(req BuildDerivationRequest) (nixwire.BuildResult, error) {
	var werr error
	err := c.ask(BuildDerivation, func() {
		_ = c.WritePath(req.Path)
		werr = c.WriteDerivation(&req.Derivation)
		_ = c.WriteBuildOptions(req.Options)
	})
	if err := errors.Join(werr, err); err != nil {
		return nixwire.BuildResult{}, err
	}
	r, err := c.readBuildResult()
	return r, failed(BuildDerivation, err)
}

// ExportPaths asks for an export stream of paths that are valid there, which read must read to its end and no further.
func (c *Client) ExportPaths(paths []nix.StorePath, read func(r *wire.Reader) error) error {
	err := c.ask(ExportPaths, func() {
		_ = c.W.Uint64(0)
		_ = c.WritePaths(paths)
	})
	if err != nil {
		return err
	}
	return failed(ExportPaths, read(c.R))
}

// ImportPaths sends an export stream, which write must write whole.
func (c *Client) ImportPaths(write func(w io.Writer) error) error {
	if err := c.ask(ImportPaths, func() {}); err != nil {
		return err
	}
	if err := errors.Join(write(c.W), c.W.Flush()); err != nil {
		return failed(ImportPaths, err)
	}
	return failed(ImportPaths, readOK(c.R))
}

// window is how many paths may be on their way without an answer. Their answers fit every pipe.
const window = 64

// adding are the paths that were sent and not answered yet.
type adding struct {
	sent   chan sentPath // in order
	ended  bool          // sent is closed
	done   chan struct{} // closed when all answers are there, or the first one is missing
	err    error         // readable then
	failed nix.StorePath
}

type sentPath struct {
	path  nix.StorePath
	there func()
}

// AddToStoreNar sends a path, whose NAR write must write whole. It does not wait for the answer: so one path follows the other
// however long the way is. There is called once the path is valid on the other side, by another goroutine and in the order
// in which the paths were sent; it may be nil. Finish tells whether all went well; an error of AddToStoreNar may be about
// an earlier path.
func (c *Client) AddToStoreNar(info nix.PathInfo, write func(w io.Writer) error, there func()) error {
	if !c.Version.AtLeast(2, 5) {
		return fmt.Errorf("the other side speaks version %v of the protocol; single paths can be added since 2.5", c.Version)
	}
	if c.adding != nil && c.adding.ended {
		return c.Finish() // it has failed before
	}
	if c.adding == nil {
		c.adding = &adding{sent: make(chan sentPath, window), done: make(chan struct{})}
		go c.adding.read(c.R)
	}
	a := c.adding
	_ = c.W.Uint64(uint64(AddToStoreNar)) // the writer keeps its first error
	_ = c.WritePath(info.Path)
	_ = c.WritePath(info.Deriver)
	_ = c.W.String(info.NarHash.Base16())
	_ = c.WritePaths(info.References)
	_ = c.W.Uint64(uint64(info.RegistrationTime))
	_ = c.W.Uint64(info.NarSize)
	_ = c.W.Bool(info.Ultimate)
	_ = c.WriteSignatures(info.Signatures)
	err := c.W.String(info.CA.String())
	if err == nil {
		err = write(c.W)
	}
	if err == nil {
		err = c.W.Flush()
	}
	if err != nil {
		// The other side has failed, most likely with a path before this one.
		return cmp.Or(c.Finish(), fmt.Errorf("add path '%s': %w", c.Dir.Path(info.Path), err))
	}
	select {
	case a.sent <- sentPath{info.Path, there}:
		return nil
	case <-a.done:
		return c.Finish()
	}
}

// read reads the answers.
func (a *adding) read(r *wire.Reader) {
	defer close(a.done)
	for s := range a.sent {
		if err := readOK(r); err != nil {
			a.err, a.failed = err, s.path
			return
		}
		if s.there != nil {
			s.there()
		}
	}
}

// readOK reads the answer to ImportPaths and AddToStoreNar.
func readOK(r *wire.Reader) error {
	v, err := r.Uint64()
	if err != nil {
		return nixwire.Unexpected(err)
	}
	if v != 1 {
		return fmt.Errorf("the other side answers %d instead of 1", v)
	}
	return nil
}

// Finish returns when all paths that were sent are valid there, or the error of the first that is not.
func (c *Client) Finish() error {
	a := c.adding
	if a == nil {
		return nil
	}
	if !a.ended {
		a.ended = true
		close(a.sent)
	}
	<-a.done
	if a.err != nil {
		return fmt.Errorf("add path '%s': %w", c.Dir.Path(a.failed), a.err)
	}
	c.adding = nil
	return nil
}
