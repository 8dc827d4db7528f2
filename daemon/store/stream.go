package store

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/wire"
	"github.com/narfs/narfs/nar"
	"github.com/narfs/narfs/nar/cas"
)

// The export stream of nix-store --export: for each path, those that it refers to before it,
//
//	1, NAR, exportMagic, path, references, deriver or "", 0
//
// and 0 at the end. Instead of the last 0 older versions of Nix wrote a 1 and a signature, which is ignored.
const exportMagic = 0x4558494e // "NIXE"

// Limits of what a stream may say.
const (
	maxPath       = 4096 // the longest full path: as long as a path may be on Linux
	maxReferences = 1 << 18
	maxLegacySig  = 64 << 10
)

// ExportStream writes paths as nix-store --export does. All must be valid; they are pinned until it returns. Their
// references are not written unless they are among paths: see Closure.
func (s *Store) ExportStream(ctx context.Context, w io.Writer, paths ...nix.StorePath) error {
	pins := s.Pin("export")
	defer pins.Release()
	pins.Add(paths...)
	sorted, err := s.Sorted(paths)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	ww := wire.NewWriter(w)
	for _, p := range sorted {
		if err := s.exportPath(ctx, ww, p); err != nil {
			return fmt.Errorf("export path '%s': %w", s.print(p), err)
		}
	}
	if err := errors.Join(ww.Uint64(0), ww.Flush()); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

func (s *Store) exportPath(ctx context.Context, w *wire.Writer, p nix.StorePath) error {
	info, err := s.PathInfo(p)
	if err != nil {
		return err
	}
	if err := w.Uint64(1); err != nil {
		return err
	}
	if err := s.WriteNAR(ctx, p, w); err != nil {
		return err
	}
	_ = w.Uint64(exportMagic) // the writer keeps its first error
	_ = w.String(s.print(p))
	_ = w.Uint64(uint64(len(info.References)))
	for _, ref := range info.References {
		_ = w.String(s.print(ref))
	}
	if info.Deriver.IsZero() {
		_ = w.String("")
	} else {
		_ = w.String(s.print(info.Deriver))
	}
	return w.Uint64(0)
}

// WriteNAR writes the NAR of a valid path.
func (s *Store) WriteNAR(ctx context.Context, p nix.StorePath, w io.Writer) error {
	o, err := s.Object(p)
	if err != nil {
		return err
	}
	defer o.Close()
	content, err := o.Content()
	if err != nil {
		return err
	}
	return content.WriteNAR(ctx, w)
}

// ImportStream makes the paths of an export stream valid, which ends where it says so; r may have more if it is a
// *wire.Reader. Done hears of each path, in order, once it is valid; it may be nil. After an error, which is one of
// Import's, the paths before the one concerned stay valid.
func (s *Store) ImportStream(ctx context.Context, r io.Reader, opts ImportOptions, done func(nix.PathInfo)) error {
	src := wire.NewReader(r)
	q := s.newQueue(ctx, done)
	var st *cas.Staged
	err := readExport(src, s.storeDir, func() (err error) {
		st, err = s.ingest(ctx, src, opts.staging(nil), 0)
		return err
	}, func(info nix.PathInfo) error {
		reg := &registration{info: info, staged: st}
		st = nil
		return q.imported(reg, opts)
	})
	if st != nil {
		st.Discard()
	}
	if qerr := q.close(); qerr != nil {
		err = qerr // of a path before the one that err is about, if there is one
	}
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	return nil
}

// imported takes the contents of one path over. Its name came behind them, so they are stored before it is known whether
// they are wanted: those of a valid path cost no more than their hashes.
func (q *queue) imported(reg *registration, opts ImportOptions) error {
	queued := false
	defer func() {
		if !queued {
			reg.end()
		}
	}()
	opts.pin(reg.info)
	old, unlock, err := q.lock(reg.info.Path, opts)
	if err != nil {
		return err
	}
	reg.unlock = unlock
	reg.info.NarHash = nix.NewSHA256(reg.staged.Info().NarHash)
	reg.info.NarSize = uint64(reg.staged.Info().NarSize)
	if old != nil {
		if opts.Repair && old.Info.NarHash == reg.info.NarHash {
			return q.s.putAgain(q.ctx, reg.staged)
		}
		return nil
	}
	if err := q.s.checkClaims(&reg.info, opts); err != nil {
		return err
	}
	reg.info.RegistrationTime = q.s.opts.Now().Unix()
	queued = true
	return q.put(reg)
}

// readExport takes an export stream apart. It calls contents, which reads one NAR, and then path with what the stream
// says about it, until one of them returns an error.
func readExport(src *wire.Reader, dir nix.StoreDir, contents func() error, path func(nix.PathInfo) error) error {
	for {
		more, err := src.Uint64()
		if err != nil {
			return truncated(err)
		}
		switch more {
		case 0:
			return nil
		case 1:
		default:
			return errors.New("input doesn't look like something created by 'nix-store --export'")
		}
		if err := contents(); err != nil {
			if _, ok := errors.AsType[*nar.FormatError](err); ok {
				return fmt.Errorf("Nix archive cannot be imported: %w", err) //nolint:staticcheck // a name
			}
			return truncated(err)
		}
		info, err := readTrailer(src, dir)
		if err != nil {
			return truncated(err)
		}
		if err := path(info); err != nil {
			return err
		}
	}
}

// truncated says what an end of the stream means where more must come.
func truncated(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readTrailer reads what an export stream says about a path behind its NAR.
func readTrailer(src *wire.Reader, dir nix.StoreDir) (info nix.PathInfo, err error) {
	magic, err := src.Uint64()
	if err != nil {
		return info, err
	}
	if magic != exportMagic {
		return info, errors.New("Nix archive cannot be imported; wrong format") //nolint:staticcheck // Nix's text
	}
	if info.Path, err = readPath(src, dir); err != nil {
		return info, err
	}
	n, err := src.Count(maxReferences, "references")
	if err != nil {
		return info, err
	}
	for range n {
		ref, err := readPath(src, dir)
		if err != nil {
			return info, err
		}
		info.References = append(info.References, ref)
	}
	deriver, err := src.String(maxPath, "deriver")
	if err != nil {
		return info, err
	}
	if deriver != "" {
		if info.Deriver, err = nix.ParseStorePath(dir, deriver); err != nil {
			return info, err
		}
	}
	legacy, err := src.Uint64()
	if err == nil && legacy == 1 {
		_, err = src.String(maxLegacySig, "legacy signature")
	}
	return info, err
}

func readPath(src *wire.Reader, dir nix.StoreDir) (nix.StorePath, error) {
	full, err := src.String(maxPath, "store path")
	if err != nil {
		return nix.StorePath{}, err
	}
	return nix.ParseStorePath(dir, full)
}
