package daemon_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/narfs/narfs/tests/env"
)

func TestMain(m *testing.M) { env.Main(m) }

// daemon starts narfs daemon and returns when it answers.
func daemon(t *testing.T, s *env.Store, args ...string) *env.Process {
	t.Helper()
	cmd := s.Command(slices.Concat([]string{"daemon"}, args)...)
	cmd.Env = append(cmd.Env, "NIX_CONF_DIR=/nonexistent", "NARFS_CONF=/nonexistent")
	for _, arg := range args {
		if variable, ok := strings.CutPrefix(arg, "ENV:"); ok {
			cmd.Args = slices.DeleteFunc(cmd.Args, func(a string) bool { return a == arg })
			cmd.Env = append(cmd.Env, variable)
		}
	}
	return started(t, s, cmd)
}

// started starts narfs daemon by a command, and returns when it answers.
func started(t *testing.T, s *env.Store, cmd *exec.Cmd) *env.Process {
	t.Helper()
	cmd.Cancel = func() error { return nil } // it must end as a daemon does
	p := env.Start(t, cmd)
	env.Eventually(t, "the daemon answers", func() (bool, error) {
		select {
		case <-p.Done():
			return false, fmt.Errorf("narfs daemon exited with %d: %s", p.Wait(), p.Output())
		default:
		}
		_, err := os.Stat(filepath.Join(s.State, "daemon.sock"))
		return err == nil, nil
	})
	return p
}

// session is a row of narfs sessions --json.
type session struct {
	ID       int
	Kind     string
	User     string
	Doing    string
	Received int64
	Pins     int
}

func sessions(t *testing.T, s *env.Store) []session {
	t.Helper()
	var list []session
	if err := json.Unmarshal([]byte(s.Must("sessions", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	return list
}

func locks(t *testing.T, s *env.Store) []map[string]any {
	t.Helper()
	var list []map[string]any
	if err := json.Unmarshal([]byte(s.Must("locks", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// file is the NAR of a file.
func file(text string) []byte {
	return env.Wire("nix-archive-1", "(", "type", "regular", "contents", text, ")")
}

// nix32 spells a hash as Nix does.
func nix32(sum []byte) string {
	const digits = "0123456789abcdfghijklmnpqrsvwxyz"
	slices.Reverse(sum)
	n := new(big.Int).SetBytes(sum)
	out := make([]byte, (len(sum)*8+4)/5)
	for i := range out {
		out[len(out)-1-i] = digits[n.Uint64()&31]
		n.Rsh(n, 5)
	}
	return string(out)
}

// storePath makes a path of a name.
func storePath(name string) string {
	sum := sha256.Sum256([]byte(name))
	return "/nix/store/" + nix32(sum[:20]) + "-" + name
}

// addRequest is the request for adding a path, but for its NAR.
func addRequest(path, narHash string, narSize int, refs ...string) []byte {
	return env.Wire(env.ServeAddToStoreNar, path, "", narHash, refs, 0, narSize, 0, 0, "")
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// add adds a path and returns its name.
func add(c *env.Serve, name, text string, refs ...string) string {
	path := storePath(name)
	archive := file(text)
	c.Send(addRequest(path, hexSum(archive), len(archive), refs...), archive)
	c.Number()
	return path
}
