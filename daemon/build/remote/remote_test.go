package remote_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/narfs/narfs/daemon/build"
	"github.com/narfs/narfs/daemon/build/remote"
	"github.com/narfs/narfs/daemon/store"
)

// What was written is heard when All returns, whoever reads it, and goes to the log that was there.
func TestEars(t *testing.T) {
	t.Parallel()
	e, w, err := remote.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	defer w.Close() //nolint:errcheck // only written
	var log bytes.Buffer
	total := 0
	for round := range 200 {
		text := strings.Repeat("x", 1+round*251%60000)
		e.All()
		log.Reset()
		e.To(&log)
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
		total += len(text)
		if got := e.All(); got != int64(total) || log.String() != text {
			t.Fatalf("round %d: heard %d bytes, %d of this round; want %d, %d", round, got, log.Len(), total, len(text))
		}
		e.To(nil)
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]string{
		"":                                      "",
		"one\n":                                 "one",
		"one\ntwo\r\n\n three\n":                "two\nthree",
		"log\nerror: why\n  and more\n":         "why\nand more",
		"\x1b[31;1merror:\x1b[0m why\x07\n":     "why",
		"an error: is not\nthat\n":              "an error: is not\nthat",
		strings.Repeat("long ", 2000) + "\nend": strings.TrimSpace(strings.Repeat("long ", 2000)[10000-4096+4:]) + "\nend",
	} {
		e, w, err := remote.Listen()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, said); err != nil {
			t.Fatal(err)
		}
		e.All()
		if got := e.Words(); got != want {
			t.Errorf("of %.40q the words are %.60q; want %.60q", said, got, want)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		e.Close()
	}
}

// What cannot be reached says so, and what hangs ends with its context.
func TestDial(t *testing.T) {
	dir := t.TempDir()
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // nothing is in it
	pool := remote.New(s, remote.Options{})
	defer pool.Close()
	ssh := func(script string) {
		t.Helper()
		writeProgram(t, dir+"/ssh", script)
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	for _, test := range []struct{ script, store, err string }{
		{"echo ssh: no such host >&2; exit 255", "ssh://host", "cannot connect: ssh: no such host"},
		{"echo ssh: no such host >&2; exit 255", "ssh-ng://host", "cannot connect: ssh: no such host"},
		{"exit 0", "ssh://host", "cannot connect"},
		{"echo 'Welcome, everybody, to this host'", "ssh://host", `does not begin as a Nix store does, but with "Welcome,"`},
		{"exit 0", "/a/store", "by ssh:// and ssh-ng:// only"},
		{"exit 0", "ssh://-oProxyCommand=x", "is not a host"},
	} {
		ssh(test.script)
		if _, err := pool.Dial(t.Context(), build.Machine{Store: test.store}); err == nil || !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s, %s: %v; want %q", test.store, test.script, err, test.err)
		}
	}
	ssh("echo begun > " + dir + "/begun; exec sleep 1000")
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		if _, err := pool.Dial(ctx, build.Machine{Store: "ssh://host", HostKey: "ssh-ed25519 AAAA"}); err == nil {
			t.Error("a host that says nothing is taken")
		}
	})
	waitFor(t, dir+"/begun")
	cancel()
	done.Wait()
	if left := filesBelow(t, dir+"/tmp"); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// A connection is used for the next build if the last one says so, unless it has died, or is of another key; and it ends when nobody has
// used it for some time, or the pool ends.
func TestReuse(t *testing.T) {
	dir := t.TempDir()
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // nothing is in it
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	writeProgram(t, dir+"/ssh", "echo $$ >> "+dir+"/started; NARFS_TEST_OTHER_SIDE=1 exec "+self)
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	started := func() []string {
		t.Helper()
		text, err := os.ReadFile(dir + "/started")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(text))
	}
	alive := func(pid string) bool {
		t.Helper()
		n, err := strconv.Atoi(pid)
		if err != nil {
			t.Fatal(err)
		}
		return syscall.Kill(n, 0) == nil
	}
	pool := remote.New(s, remote.Options{})
	use := func(pool *remote.Pool, key string, keep bool, want int) {
		t.Helper()
		session, err := pool.Dial(t.Context(), build.Machine{Store: "ssh://host", Key: key})
		if err != nil {
			t.Fatal(err)
		}
		session.Close(keep)
		if n := len(started()); n != want {
			t.Errorf("%d connections were made; want %d", n, want)
		}
	}
	use(pool, "", true, 1)
	use(pool, "", true, 1)
	use(pool, "other", true, 2)
	use(pool, "", false, 2)
	use(pool, "", true, 3)
	n, err := strconv.Atoi(started()[2])
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	use(pool, "", true, 4)
	ctx, cancel := context.WithCancel(t.Context())
	session, err := pool.Dial(ctx, build.Machine{Store: "ssh://host"})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); session.Upload(t.Context(), nil, false) == nil; <-tick.C { // it ends beside, and at once
		if time.Since(begun) > 10*time.Second {
			t.Fatal("a session goes on when its context has ended")
		}
	}
	session.Close(true)
	use(pool, "", true, 5)
	pool.Close()
	use(pool, "", true, 6) // but it is not kept
	for _, pid := range started() {
		if alive(pid) {
			t.Errorf("process %s is left", pid)
		}
	}
	short := remote.New(s, remote.Options{Idle: 10 * time.Millisecond})
	defer short.Close()
	use(short, "", true, 7)
	for begun := time.Now(); alive(started()[6]); <-tick.C {
		if time.Since(begun) > 30*time.Second {
			t.Fatal("an idle connection does not end")
		}
	}
}
