package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/narfs/narfs/daemon/acl"
	"github.com/narfs/narfs/daemon/build"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/daemon/workerproto"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/wire"
	"github.com/narfs/narfs/nar"
)

// contents returns the stream of what an operation adds: framed, or as older clients send it, one NAR.
func (v *worker) contents(framed bool) io.Reader {
	if !framed {
		return v.naked()
	}
	return v.Inside(v.frames()).R
}

// frames returns the frames that an operation ends with.
func (v *worker) frames() *wire.Frames {
	frames := v.Framed()
	v.rest = frames.Drain
	return frames
}

// naked reads a NAR that a client sends without frames: only who parses it knows where it ends. So it is parsed before it is handed on,
// and can be read to its end whatever becomes of it.
type naked struct {
	next  func() (piece []byte, ok bool)
	piece []byte // what is left of it
	err   error  // why there is no next one; io.EOF if the NAR is whole
}

func (v *worker) naked() *naked {
	n := &naked{}
	n.next, v.stop = iter.Pull(func(yield func([]byte) bool) {
		wanted := true
		v.R.Tap(func(p []byte) { wanted = wanted && yield(p) })
		r := nar.NewReader(v.R, nar.Limits{})
		var err error
		for err == nil && wanted {
			_, err = r.Next()
		}
		n.err = err
		v.R.Tap(nil)
	})
	v.rest = n.drain
	return n
}

// Read implements io.Reader.
func (n *naked) Read(p []byte) (int, error) {
	if len(n.piece) == 0 {
		var ok bool
		if n.piece, ok = n.next(); !ok {
			return 0, n.err
		}
	}
	c := copy(p, n.piece)
	n.piece = n.piece[c:]
	return c, nil
}

func (n *naked) drain() error {
	for ok := true; ok; {
		n.piece, ok = n.next()
	}
	if errors.Is(n.err, io.EOF) {
		return nil
	}
	return n.err
}

func (v *worker) addToStore(ctx context.Context) error {
	req, err := v.ReadAddToStore()
	if err != nil {
		return err
	}
	framed := v.Version.AtLeast(1, 25)
	src := v.contents(framed)
	if err := v.begin(); err != nil {
		return err
	}
	if !framed && req.Method == nix.MethodFlat {
		// So old a client sends a file as its NAR.
		file, err := onlyFile(src)
		if err != nil {
			return err
		}
		src = file
	}
	info, err := v.add(ctx, src, store.AddOptions{
		Name: req.Name, Method: req.Method, Algo: req.Algo, References: req.References, Repair: req.Repair && v.may(acl.Repair),
	})
	if err != nil {
		return err
	}
	if framed {
		return v.answer(ctx, func() error { return v.WritePathInfo(info) })
	}
	return v.answerPath(ctx, info.Path)
}

func (v *worker) may(p acl.Permission) bool { return v.session.access.May(p) == nil }

// fileReader reads the file that a NAR consists of, and the NAR's end.
type fileReader struct{ r *nar.Reader }

// onlyFile begins to read a NAR that must be one of a file.
func onlyFile(src io.Reader) (io.Reader, error) {
	r := nar.NewReader(src, nar.Limits{})
	header, err := r.Next()
	if err != nil {
		return nil, err
	}
	if header.Type != nar.TypeRegular {
		return nil, errors.New("regular file expected")
	}
	return fileReader{r}, nil
}

// Read implements io.Reader.
func (f fileReader) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if errors.Is(err, io.EOF) {
		if _, nerr := f.r.Next(); !errors.Is(nerr, io.EOF) {
			err = nerr
		}
	}
	return n, err
}

// add makes a path valid that the client sends, and whose name follows from its contents.
func (v *worker) add(ctx context.Context, src io.Reader, opts store.AddOptions) (nix.PathInfo, error) {
	opts.LockTimeout = v.settings.LockTimeout
	v.changed = true
	return v.requests.add(ctx, src, opts)
}

func (v *worker) addTextToStore(ctx context.Context) error {
	req, err := v.ReadAddTextToStore()
	if err != nil {
		return err
	}
	if err := v.begin(); err != nil {
		return err
	}
	info, err := v.add(ctx, strings.NewReader(req.Text), store.AddOptions{Name: req.Name, Method: nix.MethodText, References: req.References})
	if err != nil {
		return err
	}
	return v.answerPath(ctx, info.Path)
}

// importing returns how to import what the client sends.
func (v *worker) importing(repair, dontCheckSigs bool) (store.ImportOptions, error) {
	opts := v.session.importOptions()
	opts.RequireSignature = v.settings.RequireSigs && (!dontCheckSigs || v.session.access.Level != acl.Trusted)
	opts.Keys = v.settings.TrustedKeys
	opts.LockTimeout = v.settings.LockTimeout
	if opts.Repair = repair; repair {
		return opts, v.session.access.May(acl.Repair)
	}
	return opts, nil
}

func (v *worker) addToStoreNar(ctx context.Context) error {
	req, err := v.ReadAddToStoreNar()
	if err != nil {
		return err
	}
	var src io.Reader
	if v.Version.AtLeast(1, 21) && !v.Version.AtLeast(1, 23) {
		src, v.rest = v.Asked()
	} else {
		src = v.contents(v.Version.AtLeast(1, 23))
	}
	if err := v.begin(); err != nil {
		return err
	}
	opts, err := v.importing(req.Repair, req.DontCheckSigs)
	if err != nil {
		return err
	}
	opts.Lazy = v.lazily(req.Info.Path)
	v.changed = true
	if err := v.receive(ctx, req.Info, opts, src); err != nil {
		return err
	}
	return v.done(ctx)
}

func (v *worker) addMultipleToStore(ctx context.Context) error {
	req, err := v.ReadAddMultipleToStore()
	if err != nil {
		return err
	}
	frames := v.frames()
	if err := v.begin(); err != nil {
		return err
	}
	opts, err := v.importing(req.Repair, req.DontCheckSigs)
	if err != nil {
		return err
	}
	inside := v.Inside(frames)
	n, err := inside.R.Uint64()
	if err != nil {
		return err
	}
	v.changed = true
	for i := range n {
		info, err := workerproto.ReadAdded(inside)
		if err != nil {
			return err
		}
		opts.Lazy = i+1 < n // the last makes all durable
		if err := v.receive(ctx, info, opts, inside.R); err != nil {
			return err
		}
		v.release()
	}
	return v.done(ctx)
}

func (v *worker) addSignatures(ctx context.Context) error {
	p, sigs, err := v.ReadAddSignatures()
	if err != nil {
		return err
	}
	if err := v.begin(); err != nil {
		return err
	}
	if err := v.store.AddSignatures(ctx, p, sigs...); err != nil {
		return err
	}
	return v.ok(ctx)
}

func (v *worker) addBuildLog(ctx context.Context) error {
	p, err := v.ReadAddBuildLog()
	if err != nil {
		return err
	}
	frames := v.frames()
	if err := v.begin(); err != nil {
		return err
	}
	if !strings.HasSuffix(p.Name(), ".drv") {
		return fmt.Errorf("'%s' is not a derivation: it has no build log", v.Dir.Path(p))
	}
	log, err := build.NewLogWriter(v.session.m.opts.LogDir, p)
	if err != nil {
		return err
	}
	if _, err := io.Copy(log, frames); err != nil {
		return errors.Join(err, log.Discard())
	}
	if err := log.Close(); err != nil {
		return err
	}
	return v.ok(ctx)
}
