package daemon_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/narfs/narfs/tests/env"
)

// On a machine that lacks something, building says what, and all else works.
func TestWithout(t *testing.T) {
	t.Parallel()
	env.Require(t, env.Builds(), env.Root(), env.Program("unshare"))
	tests := []struct {
		name, script    string // run in namespaces of its own
		message, doctor string
	}{
		{
			"fuse", `mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9`,
			"/dev/fuse", "fail  /dev/fuse",
		},
		{
			"user namespaces", `exec unshare --user --map-root-user --mount sh -c 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"' sh "$@"`,
			"/proc/sys/user/max_user_namespaces", "note  sandbox",
		},
		{
			"other users", `exec unshare --user --map-root-user --mount "$@"`,
			"", "ok    sandbox",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			k := &workshop{Store: env.NewStore(t), t: t}
			t.Cleanup(func() { env.UnmountBelow(t, k.State) })
			wrap := func(cmd *exec.Cmd) *exec.Cmd {
				inside := exec.CommandContext(t.Context(), "unshare", append([]string{"--mount", "sh", "-ec", test.script + `; exec "$@"`, "sh"}, cmd.Args...)...)
				inside.Env = cmd.Env
				return inside
			}
			cmd := wrap(k.Command(append([]string{"daemon", "--ready"}, buildOptions(env.Dir(t))...)...))
			d := env.Start(t, cmd)
			env.Eventually(t, "the daemon is ready", func() (bool, error) { return strings.Contains(d.Output(), "ready"), nil })
			drv := k.put("some", "echo hello > $out")
			r := k.Run("build", drv)
			if test.message == "" {
				if r.Code != 0 || k.Must("cat", strings.TrimSpace(r.Stdout)) != "hello" {
					t.Errorf("build exited with %d: %s%s", r.Code, r.Stdout, r.Stderr)
				}
			} else if r.Code == 0 || !strings.Contains(r.Stderr, test.message) {
				t.Errorf("build exited with %d: %s; want an error with %q", r.Code, r.Stderr, test.message)
			}
			if got := k.Must("cat", drv); !strings.HasPrefix(got, "Derive(") {
				t.Errorf("cat prints %q", got)
			}
			doctor := env.Run(t, wrap(k.Command("doctor")))
			if !strings.Contains(doctor.Stdout, test.doctor) {
				t.Errorf("doctor prints\n%s%s\nwant a line with %q", doctor.Stdout, doctor.Stderr, test.doctor)
			}
		})
	}
}
