package nixdb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/narfs/narfs/internal/nix"
)

// Realisations returns which paths outputs of content-addressed derivations are, in the order in which Nix was told. Bad hears of those
// that are wrong, with their names and, if these are known, their paths.
func (d *DB) Realisations(ctx context.Context, bad func(name string, out nix.StorePath, err error)) ([]nix.Realisation, error) {
	if there, err := d.hasTable(ctx, "Realisations"); err != nil || !there {
		return nil, err
	}
	found, err := d.realised(ctx)
	if err == nil {
		err = d.readDependencies(ctx, found)
	}
	if err != nil {
		return nil, err
	}
	all := make([]nix.Realisation, 0, len(found.rows))
	seen := make(map[nix.DrvOutput]struct{}, len(found.rows))
	for i := range found.rows {
		row := &found.rows[i]
		if _, twice := seen[row.ID]; twice {
			row.fail(errTwice)
		}
		if _, err := row.JSON(); err != nil { // it may be too long
			row.fail(err)
		}
		if row.err != nil {
			bad(row.name, row.OutPath, d.place.about(fmt.Errorf("realisation %q: %w", row.name, row.err)))
			continue
		}
		seen[row.ID] = struct{}{}
		all = append(all, row.Realisation)
	}
	return all, nil
}

// BuildTraces returns how many outputs of derivations the database knows in the way of Nix 2.35 and newer: by paths of derivations.
func (d *DB) BuildTraces(ctx context.Context) (n int64, err error) {
	if there, err := d.hasTable(ctx, "BuildTraceV3"); err != nil || !there {
		return 0, err
	}
	err = d.conn.QueryRowContext(ctx, "SELECT count(*) FROM BuildTraceV3").Scan(&n)
	return n, d.place.about(err)
}

func (d *DB) hasTable(ctx context.Context, name string) (bool, error) {
	var n int
	err := d.conn.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?", name).Scan(&n)
	return n > 0, d.place.about(err)
}

// realised is a row of Realisations.
type realised struct {
	nix.Realisation

	name string // what the database calls it
	err  error  // what is wrong with it first
}

func (r *realised) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

type realisedRows struct {
	rows  []realised
	index map[int64]int // of the row with an id
}

func (d *DB) realised(ctx context.Context) (*realisedRows, error) {
	all := &realisedRows{index: map[int64]int{}}
	return all, d.query(ctx, "SELECT r.rowid, r.drvPath, r.outputName, v.path, r.signatures "+
		"FROM Realisations r LEFT JOIN ValidPaths v ON v.id = r.outputPath ORDER BY r.rowid", func(rows *sql.Rows) error {
		var id int64
		var hash, output, path, signatures sql.NullString
		if err := rows.Scan(&id, &hash, &output, &path, &signatures); err != nil {
			return err
		}
		row := realised{name: hash.String + "!" + output.String}
		row.ID, row.OutPath, row.err = d.parseRealised(row.name, path)
		for text := range strings.FieldsSeq(signatures.String) {
			sig, err := nix.ParseSignature(text)
			if err != nil {
				row.fail(err)
				break
			}
			row.Signatures = append(row.Signatures, sig)
		}
		row.AddSignatures() // puts them in order
		all.index[id] = len(all.rows)
		all.rows = append(all.rows, row)
		return nil
	})
}

// parseRealised parses the name and the path of a realisation.
func (d *DB) parseRealised(name string, path sql.NullString) (id nix.DrvOutput, p nix.StorePath, err error) {
	err = errDangling
	if path.Valid {
		p, err = nix.ParseStorePath(d.storeDir, path.String)
	}
	if err == nil {
		id, err = nix.ParseDrvOutput(name)
	}
	return id, p, err
}

// readDependencies adds what each realisation was built with.
func (d *DB) readDependencies(ctx context.Context, all *realisedRows) error {
	if there, err := d.hasTable(ctx, "RealisationsRefs"); err != nil || !there { // older than Nix 2.4
		return err
	}
	return d.query(ctx, "SELECT f.referrer, r.drvPath, r.outputName, v.path FROM RealisationsRefs f "+
		"LEFT JOIN Realisations r ON r.rowid = f.realisationReference LEFT JOIN ValidPaths v ON v.id = r.outputPath", func(rows *sql.Rows) error {
		var referrer int64
		var hash, output, path sql.NullString
		if err := rows.Scan(&referrer, &hash, &output, &path); err != nil {
			return err
		}
		i, ok := all.index[referrer]
		if !ok {
			return nil
		}
		row := &all.rows[i]
		if !hash.Valid {
			row.fail(errDependency)
			return nil
		}
		id, p, err := d.parseRealised(hash.String+"!"+output.String, path)
		if err != nil {
			row.fail(err)
			return nil
		}
		if row.Dependencies == nil {
			row.Dependencies = map[nix.DrvOutput]nix.StorePath{}
		}
		row.Dependencies[id] = p
		return nil
	})
}

var (
	errTwice      = errors.New("it is there twice")
	errDependency = errors.New("it depends on a realisation that the database does not know")
)
