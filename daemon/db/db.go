package db

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/narfs/narfs/internal/nix"
)

// Reader is the key-value space that the records are read from.
type Reader interface {
	// Get returns the value of a key, or an error that is the one given to New.
	Get(key []byte) ([]byte, error)
	// Scan calls fn with each key that begins with prefix, in the order of their bytes and from one snapshot, until fn
	// returns an error, and returns that. The slices are valid during the call only.
	Scan(prefix []byte, fn func(key, value []byte) error) error
}

// Writer is a batch of changes to the same space.
type Writer interface {
	Put(key, value []byte)
	Delete(key []byte)
}

var (
	// ErrNotFound says that there is no such record.
	ErrNotFound = errors.New("no such record")
	// ErrCorrupt says that a record is not what was written.
	ErrCorrupt = errors.New("record is corrupt")
)

// Record is what there is to know about one valid path.
type Record struct {
	Info nix.PathInfo
	Slot uint32
	// Outputs are the paths, in order, that a derivation will make, as far as it says them.
	Outputs []nix.StorePath
}

// Top describes a path's top node as a mount shows it.
type Top struct {
	Type       uint8 // 1 directory, 2 regular file, 3 symlink, as in package nar
	Executable bool
	Size       int64 // bytes of a file or a link's target, entries of a directory
	Subdirs    int64 // entries that are directories
}

// DB reads records. Its methods may be called concurrently.
type DB struct {
	kv     Reader
	absent error
}

// New returns a DB of the records in kv, whose Get says absent of a key that is not there.
func New(kv Reader, absent error) *DB {
	return &DB{kv: kv, absent: absent}
}

// Kinds of keys.
const (
	kindMeta     = 'm'
	kindSlots    = 'n'
	kindInfo     = 'p'
	kindPart     = 'q'
	kindSlot     = 's'
	kindReferrer = 'r'
	kindDerived  = 'd'
	kindObject   = 'o'
	kindDeriver  = 'v'
	kindRealised = 'x'
	kindRealPath = 'y'
)

func (d *DB) get(key []byte) ([]byte, error) {
	v, err := d.kv.Get(key)
	if errors.Is(err, d.absent) {
		return nil, ErrNotFound
	}
	return v, err
}

// Meta returns a field about the store itself; a field that was never set is ErrNotFound.
func (d *DB) Meta(field string) (string, error) {
	v, err := d.get(append([]byte{kindMeta}, field...))
	return string(v), err
}

// PutMeta sets a field about the store itself.
func PutMeta(w Writer, field, value string) {
	w.Put(append([]byte{kindMeta}, field...), []byte(value))
}

// Slots returns the first slot that was never given away; at least 1.
func (d *DB) Slots() (uint32, error) {
	v, err := d.get([]byte{kindSlots})
	switch {
	case errors.Is(err, ErrNotFound):
		return 1, nil
	case err != nil:
		return 0, err
	case len(v) != 4 || binary.BigEndian.Uint32(v) == 0:
		return 0, fmt.Errorf("%w: number of slots", ErrCorrupt)
	}
	return binary.BigEndian.Uint32(v), nil
}

// PutSlots says that slots below next may have been given away.
func PutSlots(w Writer, next uint32) {
	w.Put([]byte{kindSlots}, binary.BigEndian.AppendUint32(nil, next))
}

// Get returns the record of a valid path, else ErrNotFound.
func (d *DB) Get(path nix.StorePath) (Record, error) {
	key := infoKey(path)
	for try := 0; ; try++ {
		v, err := d.get(key)
		if err != nil {
			return Record{}, fmt.Errorf("path %s: %w", path, err)
		}
		r, err := d.parse(key, v)
		if err == nil {
			return r, nil
		}
		// The parts of a large record are read one after the other: it may change meanwhile.
		if len(v) < partSize || try == tries {
			return Record{}, fmt.Errorf("path %s: %w", path, err)
		}
	}
}

// tries is how often a record in parts is read that seems to be damaged.
const tries = 3

// presenter is a Reader that looks for many keys at once.
type presenter interface {
	Present(keys [][]byte) ([]bool, error)
}

// Valid returns those of paths that are valid, in their order.
func (d *DB) Valid(paths []nix.StorePath) (valid []nix.StorePath, err error) {
	many, ok := d.kv.(presenter)
	if !ok {
		for _, path := range paths {
			ok, err := d.Has(path)
			if err != nil {
				return nil, err
			}
			if ok {
				valid = append(valid, path)
			}
		}
		return valid, nil
	}
	keys := make([][]byte, len(paths))
	for i, path := range paths {
		keys[i] = infoKey(path)
	}
	there, err := many.Present(keys)
	if err != nil {
		return nil, err
	}
	for i, path := range paths {
		if there[i] {
			valid = append(valid, path)
		}
	}
	return valid, nil
}

// Has reports whether a path is valid.
func (d *DB) Has(path nix.StorePath) (bool, error) {
	_, err := d.get(infoKey(path))
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// ByHashPart returns the valid path with these 32 characters before its name, else ErrNotFound.
func (d *DB) ByHashPart(hashPart string) (nix.StorePath, error) {
	found, err := d.names([]byte{kindInfo}, hashPart+"-", 1)
	if err != nil {
		return nix.StorePath{}, err
	}
	if len(found) == 0 {
		return nix.StorePath{}, fmt.Errorf("hash part %s: %w", hashPart, ErrNotFound)
	}
	return found[0], nil
}

// Slot returns the path in a slot and its top node, ErrNotFound if none is valid in it.
func (d *DB) Slot(slot uint32) (nix.StorePath, Top, error) {
	key := slotKey(slot)
	v, err := d.get(key)
	if err != nil {
		return nix.StorePath{}, Top{}, fmt.Errorf("slot %d: %w", slot, err)
	}
	path, top, err := parseSlot(key, v)
	if err != nil {
		return nix.StorePath{}, Top{}, fmt.Errorf("slot %d: %w", slot, err)
	}
	return path, top, nil
}

// Referrers returns the valid paths that refer to path, apart from itself, in order.
func (d *DB) Referrers(path nix.StorePath) ([]nix.StorePath, error) {
	return d.names(pairKey(kindReferrer, path), "", 0)
}

// manyScanner is a Reader that scans many prefixes at once.
type manyScanner interface {
	ScanMany(prefixes [][]byte, fn func(i int, key []byte) error) error
}

// manyNames returns the base names behind each of some prefixes.
func (d *DB) manyNames(prefixes [][]byte) (found [][]nix.StorePath, err error) {
	found = make([][]nix.StorePath, len(prefixes))
	many, ok := d.kv.(manyScanner)
	if !ok {
		for i, prefix := range prefixes {
			if found[i], err = d.names(prefix, "", 0); err != nil {
				return nil, err
			}
		}
		return found, nil
	}
	err = many.ScanMany(prefixes, func(i int, key []byte) error {
		path, err := nix.ParseBaseName(string(key[len(prefixes[i]):]))
		if err != nil {
			return fmt.Errorf("%w: key %q: %w", ErrCorrupt, key, err)
		}
		found[i] = append(found[i], path)
		return nil
	})
	return found, err
}

// ReferrersOf is Referrers for each of some paths.
func (d *DB) ReferrersOf(paths []nix.StorePath) ([][]nix.StorePath, error) {
	prefixes := make([][]byte, len(paths))
	for i, path := range paths {
		prefixes[i] = pairKey(kindReferrer, path)
	}
	return d.manyNames(prefixes)
}

// ByNarHashes is ByNarHash for each of some hashes.
func (d *DB) ByNarHashes(hashes [][32]byte) ([][]nix.StorePath, error) {
	prefixes := make([][]byte, len(hashes))
	for i, hash := range hashes {
		prefixes[i] = objectKey(hash)
	}
	return d.manyNames(prefixes)
}

// HasReferrers reports whether Referrers would return any.
func (d *DB) HasReferrers(path nix.StorePath) (bool, error) {
	found, err := d.names(pairKey(kindReferrer, path), "", 1)
	return len(found) > 0, err
}

// Derived returns the valid paths that have drv as deriver, in order.
func (d *DB) Derived(drv nix.StorePath) ([]nix.StorePath, error) {
	return d.names(pairKey(kindDerived, drv), "", 0)
}

// Derivers returns the valid derivations that will make a path, in order: whatever it was made by.
func (d *DB) Derivers(out nix.StorePath) ([]nix.StorePath, error) {
	return d.names(pairKey(kindDeriver, out), "", 0)
}

// ByNarHash returns the valid paths whose NAR has this SHA-256, in order.
func (d *DB) ByNarHash(hash [32]byte) ([]nix.StorePath, error) {
	return d.names(objectKey(hash), "", 0)
}

// errStop ends a scan.
var errStop = errors.New("stop")

// names returns the base names, behind prefix, of the keys that begin with prefix and start: at most limit ones if that
// is above 0.
func (d *DB) names(prefix []byte, start string, limit int) (found []nix.StorePath, err error) {
	err = d.kv.Scan(append(slices.Clone(prefix), start...), func(key, _ []byte) error {
		path, err := nix.ParseBaseName(string(key[len(prefix):]))
		if err != nil {
			return fmt.Errorf("%w: key %q: %w", ErrCorrupt, key, err)
		}
		found = append(found, path)
		if len(found) == limit {
			return errStop
		}
		return nil
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return found, err
}

// All calls fn with every record, in the order of the base names and from one snapshot, until it returns an error. A
// record that cannot be read comes with that error, and its path if that is known.
func (d *DB) All(fn func(Record, error) error) error {
	return d.kv.Scan([]byte{kindInfo}, func(key, value []byte) error {
		r, err := d.parse(key, bytes.Clone(value))
		if path, perr := nix.ParseBaseName(string(key[1:])); err != nil && len(value) == partSize && perr == nil {
			r, err = d.Get(path)
		}
		if errors.Is(err, ErrNotFound) {
			return nil // a record in parts that was deleted meanwhile
		}
		if err != nil {
			path, _ := nix.ParseBaseName(string(key[1:]))
			r, err = Record{Info: nix.PathInfo{Path: path}}, fmt.Errorf("path %q: %w", key[1:], err)
		}
		return fn(r, err)
	})
}

// Slotted calls fn with every path, its slot and its top node, in the order of the slots and from one snapshot, until it
// returns an error. Records that cannot be read are left out: see Check.
func (d *DB) Slotted(fn func(path nix.StorePath, slot uint32, top Top) error) error {
	return d.kv.Scan([]byte{kindSlot}, func(key, value []byte) error {
		path, top, err := parseSlot(key, value)
		if err != nil || len(key) != 5 {
			return nil //nolint:nilerr // as said
		}
		return fn(path, binary.BigEndian.Uint32(key[1:]), top)
	})
}

// Put writes all records of a path that was not valid.
func Put(w Writer, r Record, top Top) error {
	head, parts, err := encode(r)
	if err != nil {
		return err
	}
	path := r.Info.Path
	w.Put(slotKey(r.Slot), encodeSlot(r.Slot, path, top))
	for _, key := range links(r) {
		w.Put(key, []byte{})
	}
	putInfo(w, path, head, parts)
	return nil
}

// Replace writes the info record of a valid path anew. Only signatures, times and the like may have changed: what other
// records follow from must be as before.
func Replace(w Writer, r Record) error {
	head, parts, err := encode(r)
	if err != nil {
		return err
	}
	putInfo(w, r.Info.Path, head, parts)
	return nil
}

func putInfo(w Writer, path nix.StorePath, head []byte, parts [][]byte) {
	for i, part := range parts {
		w.Put(partKey(path, i+1), part)
	}
	w.Put(infoKey(path), head)
}

// Delete takes all records of a path away.
func Delete(w Writer, r Record) error {
	_, parts, err := encode(r)
	if err != nil {
		return err
	}
	path := r.Info.Path
	w.Delete(infoKey(path))
	for i := range parts {
		w.Delete(partKey(path, i+1))
	}
	for _, key := range links(r) {
		w.Delete(key)
	}
	w.Delete(slotKey(r.Slot))
	return nil
}

// links are the keys of the indexes that a path is in.
func links(r Record) (keys [][]byte) {
	info := &r.Info
	hash, _ := info.NarHash.SHA256()
	keys = append(keys, append(objectKey(hash), info.Path.BaseName()...))
	if !info.Deriver.IsZero() {
		keys = append(keys, append(pairKey(kindDerived, info.Deriver), info.Path.BaseName()...))
	}
	for _, ref := range info.References {
		if ref != info.Path {
			keys = append(keys, append(pairKey(kindReferrer, ref), info.Path.BaseName()...))
		}
	}
	for _, out := range r.Outputs {
		keys = append(keys, append(pairKey(kindDeriver, out), info.Path.BaseName()...))
	}
	return keys
}

func infoKey(path nix.StorePath) []byte {
	return append([]byte{kindInfo}, path.BaseName()...)
}

func partKey(path nix.StorePath, part int) []byte {
	key := append(append([]byte{kindPart}, path.BaseName()...), 0)
	return binary.BigEndian.AppendUint16(key, uint16(part))
}

// SlotOf returns the slot that a key is of.
func SlotOf(key []byte) (slot uint32, ok bool) {
	if len(key) != 5 || key[0] != kindSlot {
		return 0, false
	}
	return binary.BigEndian.Uint32(key[1:]), true
}

func slotKey(slot uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{kindSlot}, slot)
}

// pairKey is the prefix of the keys of all pairs that begin with path.
func pairKey(kind byte, path nix.StorePath) []byte {
	return append(append([]byte{kind}, path.BaseName()...), 0)
}

func objectKey(hash [32]byte) []byte {
	return append([]byte{kindObject}, hash[:]...)
}
