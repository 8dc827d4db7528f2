package db

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/narfs/narfs/internal/nix"
)

// Problem is one thing that Check found.
type Problem struct {
	// Path is the one whose records are wrong; zero if there is none that could be read from them.
	Path nix.StorePath
	// Key is what is missing, superfluous or wrong.
	Key []byte
	Err error
	// Slot says that Key is the slot record of Path; only who knows the path's top node can mend it.
	Slot bool
	// Fix is set if the record follows from others, and mends it.
	Fix func(Writer)
	// Unreadable says that Key is an info record and cannot be read, Dangling that it names a reference that is not
	// valid.
	Unreadable, Dangling bool
}

// Check holds the records against each other. It calls found with each problem until that returns an error, and returns
// that. Records that change meanwhile may look wrong: see Recheck.
func (d *DB) Check(found func(Problem) error) error {
	err := d.kv.Scan([]byte{kindInfo}, func(key, value []byte) error {
		return d.checkInfo(bytes.Clone(key), bytes.Clone(value), found)
	})
	for _, kind := range []byte{kindPart, kindSlot, kindReferrer, kindDerived, kindObject, kindDeriver, kindRealised, kindRealPath} {
		if err != nil {
			return err
		}
		err = d.kv.Scan([]byte{kind}, func(key, value []byte) error {
			return d.checkOther(bytes.Clone(key), bytes.Clone(value), found)
		})
	}
	return err
}

// Recheck looks at the record of one problem again and returns the problem if there still is one.
func (d *DB) Recheck(p Problem) (still *Problem, err error) {
	found := func(q Problem) error {
		if still == nil && bytes.Equal(q.Key, p.Key) {
			still = &q
		}
		return nil
	}
	if !p.Path.IsZero() {
		value, err := d.get(infoKey(p.Path))
		if err == nil {
			err = d.checkInfo(infoKey(p.Path), value, found)
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
	}
	if still != nil {
		return still, nil
	}
	value, err := d.get(p.Key)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case p.Key[0] == kindInfo:
		err = d.checkInfo(p.Key, value, found)
	default:
		err = d.checkOther(p.Key, value, found)
	}
	return still, err
}

// checkInfo checks an info record and that everything is there that follows from it.
func (d *DB) checkInfo(key, value []byte, found func(Problem) error) error {
	path, err := nix.ParseBaseName(string(key[1:]))
	if err != nil {
		return found(Problem{Key: key, Err: fmt.Errorf("%w: info record of %q: %w", ErrCorrupt, key[1:], err), Fix: deleteKey(key), Unreadable: true})
	}
	r, err := d.parse(key, value)
	if err != nil {
		return found(Problem{Path: path, Key: key, Err: fmt.Errorf("info record: %w", err), Unreadable: true})
	}
	for _, ref := range r.Info.References {
		ok, err := d.Has(ref)
		if err == nil && !ok {
			err = found(Problem{Path: path, Key: key, Err: fmt.Errorf("refers to %s, which is not valid", ref), Dangling: true})
		}
		if err != nil {
			return err
		}
	}
	for _, link := range links(r) {
		_, err := d.get(link)
		if errors.Is(err, ErrNotFound) {
			err = found(Problem{Path: path, Key: link, Err: fmt.Errorf("index record %q is missing", link), Fix: func(w Writer) { w.Put(link, []byte{}) }})
		}
		if err != nil {
			return err
		}
	}
	skey := slotKey(r.Slot)
	other, _, err := d.Slot(r.Slot)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorrupt) || err == nil && other != path {
		if err == nil {
			err = fmt.Errorf("%w: it is that of %s", ErrCorrupt, other)
		}
		return found(Problem{Path: path, Key: skey, Err: fmt.Errorf("slot record: %w", err), Slot: true})
	}
	return err
}

// PutSlot writes the slot record of a valid path anew.
func PutSlot(w Writer, r Record, top Top) {
	w.Put(slotKey(r.Slot), encodeSlot(r.Slot, r.Info.Path, top))
}

// DeleteUnreadable takes an info record away that cannot be read. What followed from it is then found by Check.
func DeleteUnreadable(w Writer, path nix.StorePath) { w.Delete(infoKey(path)) }

func deleteKey(key []byte) func(Writer) {
	return func(w Writer) { w.Delete(key) }
}

// checkOther checks that a record follows from an info record.
func (d *DB) checkOther(key, value []byte, found func(Problem) error) error {
	path, slot, err := owner(key, value)
	if err != nil {
		return found(Problem{Key: key, Err: fmt.Errorf("%w: record %q: %w", ErrCorrupt, key, err), Fix: deleteKey(key)})
	}
	head, err := d.get(infoKey(path))
	if errors.Is(err, ErrNotFound) {
		return found(Problem{Path: path, Key: key, Err: fmt.Errorf("record %q is left over", key), Fix: deleteKey(key)})
	}
	if err != nil {
		return err
	}
	r, err := d.parse(infoKey(path), head)
	if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNotFound) {
		return nil // told already, and nothing can be said about this one
	}
	if err != nil {
		return err
	}
	ok := false
	switch key[0] {
	case kindPart:
		_, parts, err := encode(r)
		ok = err == nil && int(binary.BigEndian.Uint16(key[len(key)-2:])) <= len(parts)
	case kindSlot:
		ok = r.Slot == slot
	case kindRealised:
		ok = true
	case kindRealPath:
		id := string(key[len(pairKey(kindRealPath, path)):])
		realised, rerr := d.Realisation(id)
		ok = rerr == nil && realised.Path == path
	default:
		for _, link := range links(r) {
			ok = ok || bytes.Equal(link, key)
		}
	}
	if ok {
		return nil
	}
	return found(Problem{Path: path, Key: key, Err: fmt.Errorf("record %q does not follow from the path's info", key), Fix: deleteKey(key)})
}

// owner returns the path whose info record a record follows from, and the slot of a slot record.
func owner(key, value []byte) (path nix.StorePath, slot uint32, err error) {
	name := key[1:]
	switch key[0] {
	case kindSlot:
		if len(name) != 4 {
			return path, 0, errors.New("its key has a wrong length")
		}
		path, _, err = parseSlot(key, value)
		return path, binary.BigEndian.Uint32(name), err
	case kindObject:
		if len(name) < 32 {
			return path, 0, errors.New("its key is too short")
		}
		name = name[32:]
	case kindRealised:
		r, err := parseRealisation(key, value)
		return r.Path, 0, err
	case kindRealPath:
		name, _, _ = bytes.Cut(name, []byte{0})
	case kindPart:
		if len(name) < 3 {
			return path, 0, errors.New("its key is too short")
		}
		name = name[:len(name)-3]
	default:
		_, name, _ = bytes.Cut(name, []byte{0})
	}
	path, err = nix.ParseBaseName(string(name))
	return path, 0, err
}
