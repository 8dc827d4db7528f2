package daemon_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/narfs/narfs/tests/env"
	"github.com/narfs/narfs/tests/env/worker"
)

// Many clients of Nix's worker protocol add at once, some of it the same: nobody is told to come again.
func TestManyClients(t *testing.T) {
	t.Parallel()
	const clients, each = 64, 20
	s := env.NewStore(t)
	cmd := s.Command("daemon", "--ready")
	cmd.Cancel = func() error { return nil }
	p := env.Start(t, cmd)
	env.Eventually(t, "the daemon is ready", func() (bool, error) { return strings.Contains(p.Output(), "ready"), nil })
	paths := make([][]string, clients)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			err := addMany(t.Context(), filepath.Join(s.State, "daemon.sock"), i, each, &paths[i])
			if err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	all := slices.Concat(paths...)
	for i, path := range all {
		all[i] = filepath.Base(path)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	got := strings.Fields(s.Must("ls"))
	if slices.Sort(got); len(all) != (clients+1)*each || !slices.Equal(got, all) {
		t.Errorf("narfs ls shows %d paths, the clients got %d; want %d", len(got), len(all), (clients+1)*each)
	}
	if code := p.Stop(); code != 0 {
		t.Errorf("the daemon exited with %d: %s", code, p.Output())
	}
	if r := s.Run("verify"); r.Code != 0 {
		t.Errorf("narfs verify exited with %d: %s", r.Code, r.Stderr)
	}
}

// addMany adds files that only this client has, and after each one that all have.
func addMany(ctx context.Context, socket string, client, n int, paths *[]string) error {
	c, err := worker.Dial(ctx, socket)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // it only hangs up
	for i := range n {
		own, err := c.AddText(fmt.Sprintf("own-%d-%d", client, i), fmt.Sprint(i), *paths)
		if err != nil {
			return err
		}
		same, err := c.AddText(fmt.Sprintf("same-%d", i), fmt.Sprint(i), nil)
		if err != nil {
			return err
		}
		if err := c.PathInfo(own); err != nil {
			return err
		}
		*paths = append(*paths, own, same)
	}
	return nil
}
