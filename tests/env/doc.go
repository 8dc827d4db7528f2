// Package env is what the black-box tests of narfs share: the narfs binary,
// built once; throw-away stores of narfs and of the real Nix; processes and
// mounts that never outlive their test; and the reasons why a test cannot run
// on this machine.
//
// A package of tests begins with
//
//	func TestMain(m *testing.M) { env.Main(m) }
//
// and knows narfs only as a user does: by its command line, its mount and its
// files. Helpers fail the test that called them when something other than the
// thing under test goes wrong.
package env
