// Package casefold knows which names of a directory are one name to a file system that folds case, and how such
// names are spelled there: Nix's case hack, made loss-free. It is pure, but for [IsCaseInsensitive].
//
// # Terms
//
// Two names collide under a [Rule] if a file system of that kind takes them for one. They do so exactly if their
// keys are equal ([Rule.Key]); colliding names form a class. A hacked directory is one whose names are distinct
// under the rule. An original name is one that a NAR holds, a shown name what a hacked directory has in its place.
// [Suffix] is "~nix~case~hack~", below written ~…~.
//
// # Rules
//
// ASCII is C's strcasecmp, which Nix uses on every system and in every locale: A to Z equal a to z, any other byte
// equals itself. Names need not be text.
//
// APFS is what Apple's case-insensitive APFS does (XNU's vfs_unicode.c; Unicode's canonical caseless match, D145):
// canonical decomposition, canonical order of the marks, full case folding without the Turkish lines. So ß equals
// SS, ﬁ equals fi, the Kelvin sign equals k, U+0345 equals ι, and all spellings of é are equal. The tables are those
// of golang.org/x/text/unicode/norm and of package unicode; XNU's are of Unicode 15.1. Characters keep their
// decomposition and folding for ever, and APFS refuses those that it does not know: only names that it cannot hold
// may be judged otherwise by another version. It also refuses ill-formed UTF-8, noncharacters and long runs of
// marks; here a byte that is no UTF-8 equals itself, and the others are nothing special.
//
// HFS is what HFS+ does (Apple's vfs_utfconv.c and UCStringCompareData.h, technical note 1150): names are kept
// decomposed as in Unicode 3.2, but for U+2000–2FFF and U+F900–FAFF and beyond the basic plane; the pairs of
// Unicode 2 fold one to one (ß stays, the Kelvin sign too); U+200C–200F, 202A–202E, 206A–206F and FEFF do not
// count; a byte that is no UTF-8 counts as % and two hexadecimal digits. One thing is approximate: marks younger
// than Unicode 4.0 are put in canonical order too, so names that differ only in the order of such marks are held
// to collide although HFS+ keeps them apart. That costs them their looks, nothing else.
//
// # Nix's hack
//
// Restoring a NAR, Nix (use-case-hack, the default on macOS) leaves the first name of a class as it is and gives
// each later one of the same directory a suffix and a number, counting from 1 for each class in the order of the
// NAR, which is that of bytes; files, directories and symbolic links alike:
//
//	FOO, Foo, foo  →  FOO, Foo~…~1, foo~…~2
//
// Dumping, it cuts each name at the first Suffix. It knows only ASCII, and it loses names where
//
//   - a name holds Suffix already: "a~…~1" is dumped as "a";
//   - a name to be numbered ends in the start of Suffix: of "X~nix~case~hack" and "x~nix~case~hack" the second is
//     dumped as "x", for the first Suffix in "x~nix~case~hack~nix~case~hack~1" is not the one that was added;
//   - a made-up name equals another one of the directory: {A, a, a~…~1} cannot be restored at all, and
//     {A, a, a~NIX~CASE~HACK~1} not on a system that folds case;
//   - names collide only under Unicode's rules: restoring fails with "File exists";
//   - a made-up name has more than 255 bytes: restoring fails.
//
// # What narfs does
//
// [Hack] gives, for the distinct names of a directory in the order of their bytes:
//
//	shown  = name                        the first of a class
//	       | name ~…~ number             any other of the class; number = 1, 2, … in the class
//	       | escaped                     a name that holds Suffix: each ~…~ in it written as ~…~0
//	       | escaped ~…~ number          if the escaped name would collide
//	       | start ~…~ "~" digest        if the above has more than 255 bytes; digest = 32 digits of SHA-256
//
// Made-up names (all but the first kind) never collide with a shown or an original name of another file: a number
// that would is passed over. It follows that
//
//   - no two shown names collide;
//   - under ASCII, and if no name holds Suffix, the result is what Nix writes, provided that this is distinct under
//     the rule and not too long (Nix could not write it otherwise on a system that folds case);
//   - what a shown name is can be told from it alone ([Strip]), except for shortened ones: after Suffix stands a
//     number without leading zero at the end of the name, or 0, or ~;
//   - an original name never is the shown name of another file, so a view can serve both ([Dir.Lookup]);
//   - a directory in which nothing collides and no name holds Suffix stays as it is.
//
// [Strip] and [Unhack] undo this and otherwise cut at the first Suffix, as Nix does; for what Nix wrote without
// loss they give what Nix gives. Nix dumps a directory hacked by narfs under whatever rule correctly if no original
// name holds Suffix and no numbered one ends in ~nix~case~hack; it has no way to dump names that do.
//
// A name of more than 239 bytes (less what the number takes) leaves no room for the suffix, and a name of 255
// bytes that holds Suffix none for its mark. It is shown shortened: distinct, at most 255 bytes, the same at any
// time, and found by its original name in a view. But there are more original names than such short ones, so that it
// cannot tell its original: Unhack refuses a directory that has one, rather than giving another NAR than was
// restored. (Views lose nothing: NARs come from the store, not from them.) Names of more than 255 bytes, which no
// NAR of ours holds, are shown as they are unless they need a hack.
//
// # Use
//
// [Hack] and [Unhack] are for whole directories, [Hacker] for restoring a NAR of which the rest is not known yet,
// [Dir] for views, [Needed] for telling cheaply that none of them is needed.
package casefold
