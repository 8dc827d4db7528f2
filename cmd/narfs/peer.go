package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/narfs/narfs/daemon/lock"
	"github.com/narfs/narfs/daemon/owner"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
)

// peer is a store beside that of the command: *storePeer or *remotePeer.
type peer interface {
	// source is a store.Source.
	source(ctx context.Context, sp nix.StorePath) (nix.PathInfo, io.ReadCloser, error)
}

// withOther calls fn with the store in another state directory, which is open as long as fn runs, here or, if another process
// owns it, there.
func (p *process) withOther(ctx context.Context, dir string, u use, fn func(ctx context.Context, other peer) error) error {
	dir = p.abs(dir)
	if sameDir(dir, p.keeper.store.StateDir()) {
		return usagef("%s is this store itself", dir)
	}
	if !u.creates && !storeExists(dir) {
		return fmt.Errorf("no store in %s", dir)
	}
	opts, err := p.storeOptions(dir, u)
	if err != nil {
		return err
	}
	if u.creates && !storeExists(dir) {
		opts.StoreDir = p.keeper.store.Dir()
	}
	s, err := p.open(dir, opts) //nolint:contextcheck // it cannot be interrupted
	if isA[*lock.OwnedError](err) || errors.Is(err, iofs.ErrPermission) {
		// Whoever has it may let others in.
		remote := &remotePeer{p: p, dir: dir, storeDir: p.keeper.store.Dir()}
		if code, derr := remote.run(ctx, nil, io.Discard, "version"); derr != nil || code != exitDone {
			return err
		}
		return fn(ctx, remote)
	}
	if err != nil {
		return err
	}
	return errors.Join(fn(ctx, &storePeer{s}), s.Close())
}

// remotePeer is a store that another process has open, which does our commands.
type remotePeer struct {
	p        *process
	dir      string
	storeDir nix.StoreDir
}

// run has the owner do a command, with what the store's owner says going to our error output.
func (r *remotePeer) run(ctx context.Context, stdin io.Reader, stdout io.Writer, args ...string) (code int, err error) {
	in, endIn, err := feed(stdin)
	if err != nil {
		return 0, err
	}
	defer endIn()
	out, endOut, err := owner.Drain(stdout)
	if err != nil {
		return 0, err
	}
	messages, endMessages, err := owner.Drain(r.p.stderr)
	if err != nil {
		_ = endOut()
		return 0, err
	}
	args = append([]string{"--state", r.dir, "--quiet"}, args...)
	code, err = owner.Do(ctx, r.dir, owner.Request{Args: args, Dir: r.p.dir, Stdin: in, Stdout: out, Stderr: messages, Door: r.p.door(ctx, r.dir)})
	// The owner has closed its ends, so that the copying ends.
	return code, errors.Join(err, endOut(), endMessages())
}

// feed returns a file that gives what r gives. End closes it and waits for the copying.
func feed(r io.Reader) (f *os.File, end func(), err error) {
	if r == nil {
		f, err = os.Open(os.DevNull)
		return f, func() { _ = f.Close() }, err
	}
	f, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(w, r) // what is missing, the owner notices
		_ = w.Close()
	}()
	return f, func() { _ = f.Close(); <-done }, nil
}

// do is run for a command that must succeed.
func (r *remotePeer) do(ctx context.Context, stdin io.Reader, stdout io.Writer, args ...string) error {
	code, err := r.run(ctx, stdin, stdout, args...)
	if err == nil && code != exitDone {
		err = fmt.Errorf("the owner of %s could not do narfs %s", r.dir, args[0])
	}
	return err
}

// atOnce is how many paths one command is asked about.
const atOnce = 1000

// missing returns those of some paths that the store does not have.
func (r *remotePeer) missing(ctx context.Context, paths []nix.StorePath) ([]nix.StorePath, error) {
	var missing []nix.StorePath
	for group := range slices.Chunk(paths, atOnce) {
		var out bytes.Buffer
		if err := r.do(ctx, nil, &out, append([]string{"info", "--json"}, printed(r.storeDir, group)...)...); err != nil {
			return nil, err
		}
		var objects map[string]json.RawMessage
		if err := json.Unmarshal(out.Bytes(), &objects); err != nil {
			return nil, fmt.Errorf("owner of %s: %w", r.dir, err)
		}
		for _, sp := range group {
			if object := objects[r.storeDir.Path(sp)]; object == nil || string(object) == "null" {
				missing = append(missing, sp)
			}
		}
	}
	return missing, nil
}

// infos returns what the store knows about the paths that arguments name, and with closure about all that these refer to.
// No arguments mean all paths.
func (r *remotePeer) infos(ctx context.Context, args []string, closure bool) ([]nix.PathInfo, error) {
	if len(args) == 0 {
		var names bytes.Buffer
		if err := r.do(ctx, nil, &names, "ls", "-1"); err != nil {
			return nil, err
		}
		args, closure = strings.Fields(names.String()), false
	}
	command := []string{"info", "--json", "--json-format", strconv.Itoa(int(nix.JSON1))}
	if closure {
		command = append(command, "-r")
	}
	all := map[nix.StorePath]nix.PathInfo{}
	for group := range slices.Chunk(args, atOnce) {
		var out bytes.Buffer
		if err := r.do(ctx, nil, &out, slices.Concat(command, group)...); err != nil {
			return nil, err
		}
		infos, err := nix.ParseJSONDocument(r.storeDir, out.Bytes())
		if err != nil {
			return nil, fmt.Errorf("owner of %s: %w", r.dir, err)
		}
		for _, info := range infos {
			all[info.Path] = info
		}
	}
	infos := make([]nix.PathInfo, 0, len(all))
	for _, info := range all {
		infos = append(infos, info)
	}
	return infos, nil
}

// askIdentity returns who we are to the owner, and what store it has.
func (r *remotePeer) askIdentity(ctx context.Context) (who identity, err error) {
	var out bytes.Buffer
	if err := r.do(ctx, nil, &out, "whoami", "--json"); err != nil {
		return who, err
	}
	if err := json.Unmarshal(out.Bytes(), &who); err != nil {
		return who, fmt.Errorf("owner of %s: %w", r.dir, err)
	}
	return who, nil
}

// nar returns the NAR of a path.
func (r *remotePeer) nar(ctx context.Context, sp nix.StorePath) io.ReadCloser {
	return readNAR(func(w io.Writer) error { return r.do(ctx, nil, w, "dump", r.storeDir.Path(sp)) })
}

// source is a store.Source.
func (r *remotePeer) source(ctx context.Context, sp nix.StorePath) (nix.PathInfo, io.ReadCloser, error) {
	infos, err := r.infos(ctx, []string{r.storeDir.Path(sp)}, false)
	if err != nil {
		return nix.PathInfo{}, nil, err
	}
	if len(infos) != 1 {
		return nix.PathInfo{}, nil, &store.NotValidError{Path: r.storeDir.Path(sp)}
	}
	return infos[0], r.nar(ctx, sp), nil
}

// put imports one path.
func (r *remotePeer) put(ctx context.Context, info nix.PathInfo, how compression, write func(w io.Writer) error) error {
	object := map[nix.StorePath]map[string]any{info.Path: info.JSON(r.storeDir, nix.JSON1)}
	text, err := json.Marshal(nix.JSONDocument(r.storeDir, nix.JSON1, object))
	if err != nil {
		return err
	}
	var writeErr error
	nar := readNAR(func(w io.Writer) error { writeErr = write(w); return writeErr })
	err = r.do(ctx, nar, io.Discard, "import", "--nar", "-", "--info-json", string(text), "--compression", how.String())
	_ = nar.Close()
	if writeErr != nil && !errors.Is(writeErr, errEnough) {
		return writeErr
	}
	return err
}
