package db

// Seal makes a record of any payload, so that a fuzz test gets past the checksum.
func Seal(key, payload []byte) []byte { return seal(key, payload) }
