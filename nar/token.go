package nar

// The fixed tokens of a NAR in their wire form: length, bytes, padding.
const (
	tokMagic      = "\x0d\x00\x00\x00\x00\x00\x00\x00nix-archive-1\x00\x00\x00"
	tokOpen       = "\x01\x00\x00\x00\x00\x00\x00\x00(\x00\x00\x00\x00\x00\x00\x00"
	tokClose      = "\x01\x00\x00\x00\x00\x00\x00\x00)\x00\x00\x00\x00\x00\x00\x00"
	tokType       = "\x04\x00\x00\x00\x00\x00\x00\x00type\x00\x00\x00\x00"
	tokRegular    = "\x07\x00\x00\x00\x00\x00\x00\x00regular\x00"
	tokExecutable = "\x0a\x00\x00\x00\x00\x00\x00\x00executable\x00\x00\x00\x00\x00\x00"
	tokEmpty      = "\x00\x00\x00\x00\x00\x00\x00\x00"
	tokContents   = "\x08\x00\x00\x00\x00\x00\x00\x00contents"
	tokSymlink    = "\x07\x00\x00\x00\x00\x00\x00\x00symlink\x00"
	tokTarget     = "\x06\x00\x00\x00\x00\x00\x00\x00target\x00\x00"
	tokDirectory  = "\x09\x00\x00\x00\x00\x00\x00\x00directory\x00\x00\x00\x00\x00\x00\x00"
	tokEntry      = "\x05\x00\x00\x00\x00\x00\x00\x00entry\x00\x00\x00"
	tokName       = "\x04\x00\x00\x00\x00\x00\x00\x00name\x00\x00\x00\x00"
	tokNode       = "\x04\x00\x00\x00\x00\x00\x00\x00node\x00\x00\x00\x00"
)

// Runs of tokens that always come together: reading and writing them at once is
// what makes small entries cheap.
const (
	runRoot    = tokMagic + tokOpen + tokType
	runEntry   = tokEntry + tokOpen + tokName // the name follows
	runNode    = tokNode + tokOpen + tokType  // the type follows
	runFile    = tokRegular + tokContents     // length, bytes and padding follow
	runExec    = tokRegular + tokExecutable + tokEmpty + tokContents
	runSymlink = tokSymlink + tokTarget // the target follows
	runCloses  = tokClose + tokClose    // of a node and its entry
)

// padded is n rounded up to a multiple of eight.
func padded(n int64) int64 { return (n + 7) &^ 7 }
