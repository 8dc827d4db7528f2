package db

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/narfs/narfs/internal/nix"
)

const recordVersion = 1

const (
	// partSize bounds one value; the space below may have a limit of its own (nar/cas: 512 KiB).
	partSize = 256 << 10
	// maxParts bounds a record, which may then have some 300,000 references. As a varint it has one byte.
	maxParts = 64

	crcSize = 4
)

// Flags of an info record.
const (
	flagUltimate = 1
	flagOutputs  = 2
)

// checksum is over key and payload, so that a record in another one's place is noticed too.
func checksum(key, payload []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli) // made once, by the package
	return crc32.Update(crc32.Checksum(key, table), table, payload)
}

func seal(key, payload []byte) []byte {
	return binary.LittleEndian.AppendUint32(payload, checksum(key, payload))
}

// unseal returns the payload of a sealed record of the known version, without the version.
func unseal(key, value []byte) ([]byte, error) {
	if len(value) < 1+crcSize {
		return nil, fmt.Errorf("%w: %d bytes", ErrCorrupt, len(value))
	}
	payload, crc := value[:len(value)-crcSize], value[len(value)-crcSize:]
	if binary.LittleEndian.Uint32(crc) != checksum(key, payload) {
		return nil, fmt.Errorf("%w: wrong checksum", ErrCorrupt)
	}
	if payload[0] != recordVersion {
		return nil, fmt.Errorf("%w: version %d is unknown", ErrCorrupt, payload[0])
	}
	return payload[1:], nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendPaths(b []byte, paths []nix.StorePath) []byte {
	b = binary.AppendUvarint(b, uint64(len(paths)))
	for _, p := range paths {
		b = appendString(b, p.BaseName())
	}
	return b
}

// encode returns the value of an info record and those of its further parts.
func encode(r Record) (head []byte, parts [][]byte, err error) {
	info := &r.Info
	hash, ok := info.NarHash.SHA256()
	if !ok {
		return nil, nil, fmt.Errorf("path %s: its NAR hash is not of sha256", info.Path)
	}
	b := []byte{recordVersion, 0}
	b = binary.BigEndian.AppendUint32(b, r.Slot)
	b = append(b, hash[:]...)
	b = binary.AppendUvarint(b, info.NarSize)
	b = binary.AppendVarint(b, info.RegistrationTime)
	flags := byte(0)
	if info.Ultimate {
		flags |= flagUltimate
	}
	if len(r.Outputs) > 0 {
		flags |= flagOutputs
	}
	b = append(b, flags)
	b = appendString(b, info.Deriver.BaseName())
	b = appendString(b, info.CA.String())
	b = binary.AppendUvarint(b, uint64(len(info.Signatures)))
	for _, sig := range info.Signatures {
		b = appendString(b, sig.String())
	}
	b = appendPaths(b, info.References)
	if len(r.Outputs) > 0 {
		b = appendPaths(b, r.Outputs)
	}
	more := (len(b) + crcSize - 1) / partSize
	if more > maxParts {
		return nil, nil, fmt.Errorf("path %s: too many references and signatures: the record would have %d bytes", info.Path, len(b))
	}
	b[1] = byte(more)
	all := slices.Collect(slices.Chunk(seal(infoKey(info.Path), b), partSize))
	return all[0], all[1:], nil
}

// parse puts an info record together.
func (d *DB) parse(key, value []byte) (Record, error) {
	path, err := nix.ParseBaseName(string(key[1:]))
	if err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if len(value) == partSize {
		value = slices.Clone(value)
		for i := range min(int(value[1]), maxParts) {
			part, err := d.get(partKey(path, i+1))
			if err != nil {
				return Record{}, fmt.Errorf("part %d: %w", i+1, err)
			}
			value = append(value, part...)
		}
	}
	payload, err := unseal(key, value)
	if err != nil {
		return Record{}, err
	}
	p := &parser{b: payload}
	p.bytes(1) // parts
	r := Record{Info: nix.PathInfo{Path: path}, Slot: binary.BigEndian.Uint32(p.bytes(4))}
	r.Info.NarHash = nix.NewSHA256([32]byte(p.bytes(32)))
	r.Info.NarSize = p.uvarint()
	r.Info.RegistrationTime = p.varint()
	flags := p.bytes(1)[0]
	r.Info.Ultimate = flags&flagUltimate != 0
	r.Info.Deriver = p.path()
	if r.Info.CA, err = nix.ParseContentAddress(p.string()); err != nil {
		p.fail(err)
	}
	for range p.count() {
		sig, err := nix.ParseSignature(p.string())
		if err != nil {
			p.fail(err)
		}
		r.Info.Signatures = append(r.Info.Signatures, sig)
	}
	r.Info.References = p.paths()
	if flags&flagOutputs != 0 {
		r.Outputs = p.paths()
	}
	if len(p.b) > 0 {
		p.fail(errors.New("bytes behind its end"))
	}
	return r, p.err
}

func encodeSlot(slot uint32, path nix.StorePath, top Top) []byte {
	b := appendString([]byte{recordVersion}, path.BaseName())
	kind := top.Type
	if top.Executable {
		kind |= 16
	}
	b = append(b, kind)
	b = binary.AppendUvarint(b, uint64(top.Size))
	b = binary.AppendUvarint(b, uint64(top.Subdirs))
	return seal(slotKey(slot), b)
}

func parseSlot(key, value []byte) (nix.StorePath, Top, error) {
	payload, err := unseal(key, value)
	if err != nil {
		return nix.StorePath{}, Top{}, err
	}
	p := &parser{b: payload}
	path := p.path()
	kind := p.bytes(1)[0]
	top := Top{Type: kind & 15, Executable: kind&16 != 0, Size: int64(p.uvarint()), Subdirs: int64(p.uvarint())}
	if path.IsZero() || len(p.b) > 0 {
		p.fail(errors.New("no slot record"))
	}
	return path, top, p.err
}

// parser takes a record apart. After an error it goes on with zero values, and err is the first one.
type parser struct {
	b   []byte
	err error
}

func (p *parser) fail(err error) {
	if p.err == nil {
		p.err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	p.b = nil
}

func (p *parser) bytes(n int) []byte {
	if n > len(p.b) {
		p.fail(errors.New("too short"))
		return make([]byte, n) // n is a constant where p.b may be shorter: see count
	}
	b := p.b[:n]
	p.b = p.b[n:]
	return b
}

func (p *parser) uvarint() uint64 {
	v, n := binary.Uvarint(p.b)
	if n <= 0 {
		p.fail(errors.New("bad number"))
		return 0
	}
	p.b = p.b[n:]
	return v
}

func (p *parser) varint() int64 {
	v, n := binary.Varint(p.b)
	if n <= 0 {
		p.fail(errors.New("bad number"))
		return 0
	}
	p.b = p.b[n:]
	return v
}

// count reads the number of elements, each of which has a byte at least.
func (p *parser) count() int {
	n := p.uvarint()
	if n > uint64(len(p.b)) {
		p.fail(errors.New("bad number"))
		return 0
	}
	return int(n)
}

func (p *parser) string() string {
	n := p.count()
	return string(p.bytes(n))
}

// path reads a base name, which may be empty.
func (p *parser) path() nix.StorePath {
	s := p.string()
	if s == "" {
		return nix.StorePath{}
	}
	path, err := nix.ParseBaseName(s)
	if err != nil {
		p.fail(err)
	}
	return path
}

// paths reads base names, nil if there are none.
func (p *parser) paths() (all []nix.StorePath) {
	if n := p.count(); n > 0 {
		all = make([]nix.StorePath, 0, n)
		for range n {
			all = append(all, p.path())
		}
	}
	return all
}
