package acl

// UsersIn are those of two files, in the formats of /etc/passwd and /etc/group.
func UsersIn(passwd, groups string) Users { return userFiles{passwd, groups} } //nolint:iface // hides it

// Similar returns the setting that a name is nearly, "" for none.
func Similar(name string) string { return similar(name) }
