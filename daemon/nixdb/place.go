package nixdb

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Place says where the files of a Nix store are.
type Place struct {
	StoreDir string // the folder with the store objects, whatever their store paths begin with
	StateDir string // the folder with db, gcroots and profiles
}

// ErrNoStore says that there is no Nix store.
var ErrNoStore = errors.New("no Nix store")

const databaseFile = "db/db.sqlite"

// Find returns the place of the store in a folder: one with a root, one that is called like /nix, or the store directory itself.
// The error is ErrNoStore if there is none.
func Find(dir string) (Place, error) {
	candidates := []Place{
		{filepath.Join(dir, "nix", "store"), filepath.Join(dir, "nix", "var", "nix")},
		{filepath.Join(dir, "store"), filepath.Join(dir, "var", "nix")},
	}
	if dir = filepath.Clean(dir); filepath.Base(dir) == "store" {
		candidates = append(candidates, Place{dir, filepath.Join(filepath.Dir(dir), "var", "nix")})
	}
	for _, p := range candidates {
		err := p.check()
		if err == nil || !errors.Is(err, ErrNoStore) {
			return p, err
		}
	}
	return Place{}, fmt.Errorf("%w in %s: neither %s nor %s is there", ErrNoStore, dir,
		filepath.Join(candidates[0].StateDir, databaseFile), filepath.Join(candidates[1].StateDir, databaseFile))
}

// Root returns the folder that Nix calls the root of the store; "" if the store's folders are not called as in one.
func (p Place) Root() string {
	root, ok := strings.CutSuffix(filepath.Clean(p.StoreDir), "/nix/store")
	if root == "" {
		root = "/"
	}
	if !ok || filepath.Clean(p.StateDir) != filepath.Join(root, "nix", "var", "nix") {
		return ""
	}
	return root
}

// check is ErrNoStore unless there is a database in the place.
func (p Place) check() error {
	_, err := os.Stat(p.database())
	if errors.Is(err, iofs.ErrNotExist) || isNotDir(err) {
		return fmt.Errorf("%w: %w", ErrNoStore, err)
	}
	return err
}

func (p Place) database() string { return filepath.Join(p.StateDir, databaseFile) }

// schemaVersion is that of Nix 2.0 and all that came after it. Newer changes of the database leave it alone: those that may be
// missing are none that matter here.
const schemaVersion = "10"

// checkSchema refuses a database that is laid out in another way.
func (p Place) checkSchema() error {
	name := filepath.Join(p.StateDir, "db", "schema")
	b, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("version of the Nix database: %w", err)
	}
	if got := strings.TrimSpace(string(b[:min(len(b), 64)])); got != schemaVersion {
		return &SchemaError{File: name, Version: got}
	}
	return nil
}

// SchemaError says that a database has a version that this package does not know.
type SchemaError struct{ File, Version string }

// Error implements error.
func (e *SchemaError) Error() string {
	return fmt.Sprintf("the Nix database has schema version %q, and only %s can be read (%s)", e.Version, schemaVersion, e.File)
}
