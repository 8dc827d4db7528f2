// Package cli holds the tests of narfs's command line, one testscript in
// testdata for each feature.
//
// A script has narfs in its PATH ($NARFS), a store of its own
// ($NARFS_STATE_DIR) and no settings ($NIX_CONF_DIR, $NARFS_CONF). Beside what testscript knows, it may use
//
//	exits CODE COMMAND [ARG...]   run a command that must exit with CODE
//	keep VARIABLE                 set VARIABLE to what the last command printed, without the last newline
//	mounted DIR                   wait until something is mounted on DIR
//	unmounted DIR                 wait until nothing is
//
// and the conditions [fuse], [root] and [long], true where env has them.
// Rewrite expected output with: go test ./tests/cli -update
package cli
