package nixwire

import "fmt"

// Version is a version of one of the protocols. Both sides speak the lesser of theirs.
type Version struct{ Major, Minor uint8 }

// ParseVersion takes apart how versions are sent; what is above 16 bits means nothing.
func ParseVersion(n uint64) Version { return Version{uint8(n >> 8), uint8(n)} }

// Number returns how the version is sent.
func (v Version) Number() uint64 { return uint64(v.Major)<<8 | uint64(v.Minor) }

// Less reports whether v is older than o.
func (v Version) Less(o Version) bool {
	return v.Major < o.Major || v.Major == o.Major && v.Minor < o.Minor
}

// AtLeast reports whether v is not older than a version.
func (v Version) AtLeast(major, minor uint8) bool { return !v.Less(Version{major, minor}) }

// String returns "major.minor".
func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }
