package nixdb

// Snapshot is snapshot.
var Snapshot = snapshot
