package nixdb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/narfs/narfs/internal/nix"
)

// DB is the database of a Nix store, as it was when it was opened. Its methods must not be called concurrently.
type DB struct {
	place Place
	dir   string // of the copy
	sql   *sql.DB
	conn  *sql.Conn // the only one

	storeDir         nix.StoreDir
	info, references *sql.Stmt
}

// maxValue bounds each value, in bytes: the longest are the signatures of a path.
const maxValue = 16 << 20

// Open copies a database to a new folder in temp, which Close removes, and opens the copy. It needs as much space as the database has.
// Errors are ErrNoStore, *SchemaError, and those of reading.
func Open(ctx context.Context, place Place, temp string) (*DB, error) {
	if err := place.check(); err != nil {
		return nil, err
	}
	if err := place.checkSchema(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(temp, "narfs-nixdb-")
	if err != nil {
		return nil, place.about(err)
	}
	d := &DB{place: place, dir: dir}
	if err = snapshot(ctx, place.database(), d.file()); err == nil {
		err = d.open(ctx)
	}
	if err != nil {
		return nil, place.about(errors.Join(err, d.Close()))
	}
	return d, nil
}

func (d *DB) file() string { return filepath.Join(d.dir, "db.sqlite") }

func (d *DB) open(ctx context.Context) (err error) {
	// Nobody else has the copy. What others made may hold code in its schema: it may do nothing.
	name := url.URL{Scheme: "file", Path: d.file(), RawQuery: "_pragma=locking_mode(exclusive)&_pragma=trusted_schema(0)&_pragma=query_only(1)"}
	if d.sql, err = sql.Open("sqlite", name.String()); err != nil {
		return err
	}
	if d.conn, err = d.sql.Conn(ctx); err != nil {
		return err
	}
	if _, err = sqlite.Limit(d.conn, sqlite3.SQLITE_LIMIT_LENGTH, maxValue); err != nil {
		return err
	}
	if d.info, err = d.conn.PrepareContext(ctx,
		"SELECT hash, registrationTime, deriver, narSize, ultimate, sigs, ca FROM ValidPaths WHERE id = ?"); err != nil {
		return err
	}
	// A reference to what is not there has no path.
	if d.references, err = d.conn.PrepareContext(ctx,
		"SELECT v.path FROM Refs r LEFT JOIN ValidPaths v ON v.id = r.reference WHERE r.referrer = ?"); err != nil {
		return err
	}
	var first sql.NullString
	if err = d.conn.QueryRowContext(ctx, "SELECT min(path) FROM ValidPaths").Scan(&first); err != nil || !first.Valid {
		return err
	}
	d.storeDir, err = nix.ParseStoreDir(path.Dir(first.String))
	return err
}

// Close removes the copy.
func (d *DB) Close() error {
	var errs []error
	for _, s := range []*sql.Stmt{d.info, d.references} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	if d.conn != nil {
		errs = append(errs, d.conn.Close())
	}
	if d.sql != nil {
		errs = append(errs, d.sql.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(d.dir))...)
}

// StoreDir returns the directory that the store paths name, which need not be where they are; "" if there are none.
func (d *DB) StoreDir() nix.StoreDir { return d.storeDir }

// Row is a valid path in the database.
type Row struct {
	Path    nix.StorePath
	NarSize uint64 // 0 if it is not known

	id     int64
	cyclic bool // see Closure
}

// Info returns what the database knows about a path. RegistrationTime is what the database says, also 0.
func (d *DB) Info(ctx context.Context, row Row) (nix.PathInfo, error) {
	info := nix.PathInfo{Path: row.Path}
	var hash string
	var deriver, sigs, ca sql.NullString
	var size, ultimate sql.NullInt64
	err := d.info.QueryRowContext(ctx, row.id).Scan(&hash, &info.RegistrationTime, &deriver, &size, &ultimate, &sigs, &ca)
	if err == nil {
		info.NarSize, info.Ultimate = uint64(max(size.Int64, 0)), ultimate.Int64 != 0
		info.NarHash, err = nix.ParseHash(hash, 0)
	}
	if err == nil && deriver.String != "" {
		info.Deriver, err = nix.ParseStorePath(d.storeDir, deriver.String)
	}
	if err == nil && ca.String != "" {
		info.CA, err = nix.ParseContentAddress(ca.String)
	}
	for text := range strings.FieldsSeq(sigs.String) {
		if err == nil {
			var sig nix.Signature
			sig, err = nix.ParseSignature(text)
			info.AddSignatures(sig)
		}
	}
	if err == nil {
		info.References, err = d.readReferences(ctx, row)
	}
	if err == nil && row.cyclic {
		err = errCycle
	}
	if err != nil {
		return nix.PathInfo{Path: row.Path}, d.place.about(fmt.Errorf("path '%s': %w", d.storeDir.Path(row.Path), err))
	}
	return info, nil
}

func (d *DB) readReferences(ctx context.Context, row Row) (refs []nix.StorePath, err error) {
	rows, err := d.references.QueryContext(ctx, row.id)
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // Err has it
	for rows.Next() {
		var name sql.NullString
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		if !name.Valid {
			return nil, errDangling
		}
		ref, err := nix.ParseStorePath(d.storeDir, name.String)
		if err != nil {
			return nil, err
		}
		refs = append(refs, ref)
	}
	return nix.SortPaths(refs), rows.Err()
}

var (
	errDangling = errors.New("it refers to a path that the database does not know")
	errCycle    = errors.New("it is part of a cycle of references")
)
