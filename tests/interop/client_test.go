package interop_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/narfs/narfs/tests/env"
	"github.com/narfs/narfs/tests/env/closure"
	"github.com/narfs/narfs/tests/env/serve"
)

// host is what clients call the machine with narfs. No test asks the network for it.
const host = "narfs.test"

// release is a Nix whose programs are clients.
type release struct {
	version string
	suite   string // of the Debian that has it; empty for this machine's
}

func releases() []release { return []release{{"2.8.0", ""}, {"2.26.3", "trixie"}, {"2.34.8", "sid"}} }

// client is a Nix of a release and its way to narfs: an ssh that runs on this machine what it is to run on the host.
type client struct {
	release

	dir string // holds ssh/ssh and bin/nix-store and bin/nix-daemon, which are narfs
}

// fakeSSH is called as ssh HOST OPTION... [--] COMMAND... It gets out of where a peer is.
const fakeSSH = `#!/bin/sh
host=
while [ $# -gt 0 ]; do
	case $1 in
	--) shift; break ;;
	-oLocalCommand=*) sh -c "${1#-oLocalCommand=}" ;;
	-*) ;;
	*) [ -z "$host" ] || break; host=$1 ;;
	esac
	shift
done
[ "$host" = ` + host + ` ] || { echo "the fake ssh knows no host $host" >&2; exit 255; }
PATH=${0%/ssh/ssh}/bin:$PATH exec $GET_OUT sh -c "$*"
`

// newClient skips the test if there is no such release here.
func newClient(tb testing.TB, r release) *client {
	tb.Helper()
	need := env.RealNix()
	if r.suite != "" {
		need = env.Peer(r.suite)
	}
	env.Require(tb, need)
	c := &client{release: r, dir: env.Dir(tb)}
	for _, name := range []string{"ssh", "bin"} {
		if err := os.Mkdir(filepath.Join(c.dir, name), 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	write(tb, filepath.Join(c.dir, "ssh", "ssh"), fakeSSH, 0o755)
	copyFile(tb, env.Binary(tb), filepath.Join(c.dir, "bin", "nix-store"))
	if err := os.Symlink("nix-store", filepath.Join(c.dir, "bin", "nix-daemon")); err != nil {
		tb.Fatal(err)
	}
	version, isNix := strings.CutPrefix(env.Must(tb, c.nix(tb, env.NewStore(tb)).Command("nix-store", "--version")), "nix-store (Nix) ")
	if !isNix {
		tb.Skipf("needs Nix %s: nix-store is %s", r.version, version)
	}
	if version != r.version {
		tb.Logf("this is Nix %s", version)
	}
	return c
}

func copyFile(tb testing.TB, from, to string) {
	tb.Helper()
	f, err := os.Open(from)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := io.Copy(out, f); err != nil {
		tb.Fatal(err)
	}
	if err := out.Close(); err != nil {
		tb.Fatal(err)
	}
}

// nix makes an empty store of the client, from which ssh leads to a store of narfs. It sees some more folders.
func (c *client) nix(tb testing.TB, s *env.Store, folders ...string) *local {
	tb.Helper()
	if c.suite == "" {
		return &local{Nix: env.NewNix(tb), client: c, host: s}
	}
	return &local{Nix: env.NewPeerNix(tb, c.suite, append([]string{c.dir}, folders...)...), client: c, host: s}
}

// local is a store of a client.
type local struct {
	*env.Nix

	client    *client
	host      *env.Store // what ssh leads to
	variables []string   // more for the environment
}

// Command prepares a program of Nix.
func (l *local) Command(name string, args ...string) *exec.Cmd {
	cmd := l.Nix.Command(name, args...)
	if l.client.suite != "" {
		cmd.Env = append(cmd.Env, fmt.Sprintf("GET_OUT=nsenter --target %d --mount --root --wdns=/", os.Getpid()))
	}
	cmd.Env = append(cmd.Env, l.variables...)
	cmd.Env = append(cmd.Env, "NARFS_STATE_DIR="+l.host.State, "PATH="+filepath.Join(l.client.dir, "ssh")+":"+os.Getenv("PATH"))
	return cmd
}

// must runs a program of Nix and tells how long it took.
func (l *local) must(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	begun := time.Now()
	out := env.Must(tb, l.Command(name, args...))
	shown := name + " " + strings.Join(args, " ")
	if len(shown) > 100 {
		shown = shown[:100] + "…"
	}
	tb.Logf("%6.2f s  %s", time.Since(begun).Seconds(), shown)
	return out
}

// fill gives the closure to the client's store.
func (l *local) fill(tb testing.TB, c *closure.Closure) {
	tb.Helper()
	session := serve.Start(tb, l.Command("nix-store", "--serve", "--write"))
	for _, o := range c.Objects {
		if err := session.Add(o); err != nil {
			tb.Fatal(session.End(err))
		}
	}
	if err := session.Close(); err != nil {
		tb.Fatal(err)
	}
}

// check compares the client's store with the closure, down to the contents.
func (l *local) check(tb testing.TB, c *closure.Closure) {
	tb.Helper()
	env.Must(tb, l.Command("nix-store", "--verify", "--check-contents"))
	if got := strings.Fields(env.Must(tb, l.Command("nix-store", "-qR", c.Top()))); len(got) != len(c.Objects) {
		tb.Errorf("the closure in the client's store has %d paths; want %d", len(got), len(c.Objects))
	}
	session := serve.Start(tb, l.Command("nix-store", "--serve"))
	infos, err := session.PathInfos(c.Paths())
	if err != nil {
		tb.Fatal(session.End(err))
	}
	compareInfos(tb, c, infos)
	if err := session.Close(); err != nil {
		tb.Error(err)
	}
}

// compareInfos compares what a store says about paths with what is so.
func compareInfos(tb testing.TB, c *closure.Closure, infos []serve.Info) {
	tb.Helper()
	byPath := map[string]serve.Info{}
	for _, i := range infos {
		byPath[i.Path] = i
	}
	for _, o := range c.Objects {
		got := byPath[o.Path]
		slices.Sort(got.References)
		if got.Hash != o.HashText() || got.Size != uint64(o.Size) || got.CA != o.CA || got.Deriver != o.Deriver || !slices.Equal(got.References, o.References) {
			tb.Errorf("the store says %+v; want %s", got, describe(o))
		}
	}
}

func describe(o *closure.Object) string {
	return strings.Join([]string{o.Path, o.HashText(), strconv.FormatInt(o.Size, 10), o.CA, o.Deriver, strings.Join(o.References, " ")}, ", ")
}

// checkHost holds the store of narfs against the closure: what it verifies, says, and shows in a mount, which it makes
// unless there is one.
func checkHost(tb testing.TB, s *env.Store, m *env.Mount, c *closure.Closure) {
	tb.Helper()
	if r := s.Run("verify"); r.Code != 0 {
		tb.Errorf("narfs verify exited with %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	session := serve.Start(tb, s.Command("serve"))
	infos, err := session.PathInfos(c.Paths())
	if err != nil {
		tb.Fatal(session.End(err))
	}
	compareInfos(tb, c, infos)
	if err := session.Close(); err != nil {
		tb.Error(err)
	}
	if m == nil {
		if err := env.Fuse().Err(); err != nil {
			tb.Logf("not looked at in a mount: %v", err)
			return
		}
		m = s.Mount()
		defer m.Unmount()
	}
	checkMount(tb, m, c)
}

// few is how many paths are dumped by a process each. Of more, one process hashes the dumps.
const few = 100

// checkMount lets the real Nix make the NAR of every path in a mount.
func checkMount(tb testing.TB, m *env.Mount, c *closure.Closure) {
	tb.Helper()
	nix := env.NewNix(tb)
	args := []string{"--type", "sha256", "--base32"}
	for _, o := range c.Objects {
		file := filepath.Join(m.Dir, filepath.Base(o.Path))
		args = append(args, file)
		if len(c.Objects) > few {
			continue
		}
		sum := sha256.New()
		dump := nix.Command("nix-store", "--dump", file)
		dump.Stdout = sum
		if got := env.Run(tb, dump); got.Code != 0 || [32]byte(sum.Sum(nil)) != o.Hash {
			tb.Errorf("nix-store --dump %s exited with %d and wrote a NAR of hash %x; want %x: %s", file, got.Code, sum.Sum(nil), o.Hash, got.Stderr)
		}
	}
	hashes := strings.Fields(nix.Must("nix-hash", args...))
	for i, o := range c.Objects {
		if i >= len(hashes) || "sha256:"+hashes[i] != o.HashText() {
			tb.Errorf("nix-hash of %s in the mount is not %s", o.Path, o.HashText())
		}
	}
}
