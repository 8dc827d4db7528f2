package stress_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/narfs/narfs/tests/env"
	"github.com/narfs/narfs/tests/env/closure"
	"github.com/narfs/narfs/tests/env/serve"
)

func TestMain(m *testing.M) { env.Main(m) }

// count is how often a test does something: what a variable says, or short, or long in the long form.
func count(t *testing.T, variable string, short, long int) int {
	t.Helper()
	if text := os.Getenv(variable); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("$%s: %v", variable, err)
		}
		return n
	}
	if env.Long().Err() == nil {
		return long
	}
	return short
}

func many(t *testing.T, n int, salt string) *closure.Closure {
	t.Helper()
	c, err := closure.Many(n, salt)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// start starts an owner and returns when it answers.
func start(t *testing.T, s *env.Store, args ...string) *env.Process {
	t.Helper()
	cmd := s.Command(append([]string{"daemon"}, args...)...)
	cmd.Env = append(cmd.Env, "NIX_CONF_DIR=/nonexistent", "NARFS_CONF=/nonexistent")
	cmd.Cancel = func() error { return nil } // it must end as a daemon does
	p := env.Start(t, cmd)
	env.Eventually(t, "the daemon answers", func() (bool, error) {
		select {
		case <-p.Done():
			return false, fmt.Errorf("narfs daemon exited with %d: %s", p.Wait(), p.Output())
		default:
		}
		got := s.Run("whoami", "--json")
		return got.Code == 0 && strings.Contains(got.Stdout, fmt.Sprintf(`"owner":%d`, p.PID())), nil
	})
	return p
}

// upload copies those objects of a closure that are not there, as nix-copy-closure does, and notes in acked what was acknowledged.
// It returns with the session open, or with the error that ended it; when stop is set, the client is killed.
func upload(stop *atomic.Bool, s *env.Store, objects []*closure.Object, acked func(path string)) (*serve.Session, error) {
	session, err := serve.Run(s.Command("serve", "--write"))
	if err != nil {
		return nil, err
	}
	paths := make([]string, 0, len(objects))
	for _, o := range objects {
		paths = append(paths, o.Path)
	}
	valid, err := session.ValidPaths(false, paths)
	if err != nil {
		return nil, session.End(err)
	}
	there := map[string]bool{}
	for _, path := range valid {
		there[path] = true
		acked(path)
	}
	for _, o := range objects {
		if there[o.Path] {
			continue
		}
		if stop.Load() {
			session.Kill()
			return nil, session.End(errStopped)
		}
		if err := session.Add(o); err != nil {
			return nil, session.End(err)
		}
		acked(o.Path)
	}
	return session, nil
}

var errStopped = errors.New("this client was killed")

// counts are what an owner has, as far as leaks would show there.
type counts struct {
	Owner      int
	Sessions   int
	Goroutines int
	Budget     int64 `json:"budgetTaken"`

	descriptors int
}

func countsOf(t *testing.T, s *env.Store) (c counts) {
	t.Helper()
	if err := json.Unmarshal([]byte(s.Must("stats", "--json")), &c); err != nil {
		t.Fatal(err)
	}
	fds, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(c.Owner), "fd"))
	if err != nil && !errors.Is(err, os.ErrNotExist) { // where there is no /proc
		t.Fatal(err)
	}
	c.descriptors = len(fds)
	return c
}

// mustBeIn fails the test unless all paths are valid, and whole.
func mustBeIn(t *testing.T, s *env.Store, paths []string) {
	t.Helper()
	for len(paths) > 0 {
		n := min(len(paths), 500)
		if got := s.Run(append([]string{"verify"}, paths[:n]...)...); got.Code != 0 {
			t.Fatalf("verify of what must be there: %s%s", got.Stdout, got.Stderr)
		}
		paths = paths[n:]
	}
}
