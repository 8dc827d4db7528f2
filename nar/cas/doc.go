// Package cas is the content store: it keeps Nix archives (NARs) as deduplicated chunks in
// append-only packs, gives them back byte for byte, as a stream or file by file, and holds a
// small key-value space whose changes commit together with the archives they speak of.
//
// # Terms
//
//   - object: one NAR, named by the SHA-256 of its bytes (its NAR hash).
//   - chunk: a piece of one regular file's content, cut and named by nar/chunk; the unit of
//     deduplication.
//   - frame: consecutive new chunks of one import, compressed together; the unit of
//     compression and of reading from disk. Small chunks deduplicate well and compress
//     badly; keeping the two units apart gives both.
//   - blob: a byte string kept as chunks. An object's manifest is two blobs: the tree (the
//     entries) and the list (the chunks of its files' contents, in NAR order).
//   - record: one change of one key. A commit is a group of records.
//   - pack: a file of frames; the packs in the order of their numbers are the log.
//   - index: a Badger database, a cache of the log that can be made again from it.
//   - extent: a run of an object's content that stands in one piece in a frame. Extents lead a
//     reader to the bytes without a look-up for each chunk; they are in the index only.
//
// # Laws
//
//   - The log is the truth. A commit is durable when its last meta frame is: frames are
//     written in order and a pack is synced before the next one begins, so the first broken
//     frame of the last pack is the end of what was acknowledged, unless the checkpoint or a
//     meta frame, be it behind, says that the log had been durable beyond it. Then it is
//     damage, which costs what stood in that frame and nothing else.
//   - Bottom up: data frames stand in the log before the records that name their chunks, and
//     the index names a chunk only after the sync of its frame.
//   - The index may be behind the log by what came after its last checkpoint, never ahead;
//     opening replays the difference. Lazy commits put it ahead of what is on the disk for a
//     moment: a file "unsynced" then says so, durably, with the name of the system's present
//     run. Who opens the store in another run makes the index again.
//   - Top down: [Store.Sweep] takes chunks out of the index, syncs that, writes down which
//     frames are gone, and only then gives their space back. It does nothing while the index
//     contradicts the log, or lacks a chunk that an object names. Pack numbers and offsets
//     are never used twice.
//   - Nothing read from a pack is handed out before its checksum was compared; chunk names
//     are compared on import and by [Store.Verify].
//
// # Format 1
//
// Integers are little endian unless called uvarint (as in encoding/binary). CRC is CRC-32C.
//
// The file "format" in the store's folder is text: "narfs content store 1" and the chunk
// sizes and frame size in bytes, a line each. A store with another first line is refused.
//
// Packs are packs/NNNNNNNN.pack, numbered from 1 in decimal. A pack is a header
//
//	 0  magic    8  "narfpack"
//	 8  version  4  1
//	12  pack     4  the pack's number
//	16  marker   8  random, one per store: begins every frame
//	24  zero     4
//	28  crc      4  of bytes 0..27
//
// and then frames:
//
//	 0  marker   8  the store's marker; unknown to those whose files are stored, so that no
//	                file content can pass for a frame when a reader has lost its place
//	 8  kind     1  1 data, 2 blobs, 3 meta
//	 9  codec    1  0 stored, 1 zstd
//	10  flags    1  meta: 1 = the commit goes on in the next frame
//	                data, blobs: 2 = compressed lightly, if at all, for the time being
//	11  zero     1
//	12  count    4  number of chunks (data, blobs) or of records (meta)
//	16  raw      4  bytes of the payload when decoded, at most 1 MiB (meta: 4 MiB)
//	20  stored   4  bytes of the payload as it stands
//	24  paycrc   4  of the stored payload
//	28  crc      4  of bytes 0..27 and the lengths
//	32  lengths  3 each (data, blobs): bytes of each chunk, whose sum is raw
//	..  payload  stored bytes
//
// A data frame holds chunks of files, a blobs frame chunks of trees and lists. Their names
// are not written down: whoever rebuilds the index hashes the chunks and so checks them.
//
// A meta payload is the position (pack 4, offset 4) up to which the log was durable when it
// was written, and a sequence of records (Close appends a frame without any, so that the last
// commit's durability is told, too)
//
//	uvarint key length (1..65535), key, uvarint 0 (delete) or value length + 1, value
//
// whose key begins with its space: "u" the owner's keys, "o" + NAR hash an object, "h" +
// pack (4, big endian) the frames of that pack that are gone, as ascending uvarint
// differences of their offsets.
//
// An object's value:
//
//	version 1  1
//	NAR size   uvarint
//	entries    uvarint   files, folders and links
//	content    uvarint   bytes of all regular files
//	tree       blob
//	list       blob
//
// and a blob:
//
//	size       uvarint
//	depth      1         0: the size bytes follow; n: chunk records follow
//	records    uvarint   their number (depth > 0)
//	...        38 each   chunk records of the blob (depth 1), or of a byte string which is
//	                     the concatenation of the chunk records of depth n-1
//
// A chunk record is the chunk's ID (32) and the offset behind its last byte (6) in the file,
// or in the blob. The list blob is the concatenation of the chunk records of all regular
// files in NAR order. The tree blob is nar.Tree's binary form, preceded by its length as
// uvarint and followed by the number of chunks, as uvarint, of every regular file in NAR
// order that is longer than the smallest chunk (an empty file has none, the others one).
package cas
