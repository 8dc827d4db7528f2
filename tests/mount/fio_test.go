package mount_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/narfs/narfs/tests/env"
)

// fio prepares a run of fio, whose job carries a checksum in each 4 KiB of what it writes or expects one in what it reads.
func fio(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	env.Require(t, env.Program("fio"))
	cmd := exec.CommandContext(t.Context(), "fio", append([]string{
		"--name=job", "--thread", "--verify=crc32c", "--verify_interval=4k", "--verify_state_save=0",
	}, args...)...)
	cmd.Dir = dir
	return cmd
}

// fioReads are the options of jobs that read a file in random order and pieces.
func fioReads(engine, file string) []string {
	return []string{
		"--readonly", "--ioengine=" + engine, "--rw=randread", "--bsrange=4k-128k", "--verify_fatal=1", "--numjobs=4", "--iodepth=16",
		"--filename=" + file,
	}
}

// TestFio: fio reads with every engine what fio wrote, and compares it. One file compresses, the other does not.
func TestFio(t *testing.T) {
	env.Require(t, env.Fuse(), env.Program("fio"))
	size := "24m"
	if env.Long().Err() == nil {
		size = "512m"
	}
	work := env.Dir(t)
	tree := mkdir(t, work, "tree")
	writes := []string{"--rw=write", "--bs=64k", "--do_verify=0", "--size=" + size}
	env.Must(t, fio(t, work, append(writes, "--filename="+filepath.Join(tree, "noise"))...))
	env.Must(t, fio(t, work, append(writes, "--zero_buffers", "--filename="+filepath.Join(tree, "zeros"))...))
	store := env.NewStore(t)
	path := filepath.Join(store.Mount().Dir, add(t, store, tree))
	for _, tc := range []struct {
		name, engine string
		options      []string
	}{
		{"psync", "psync", nil},
		{"mmap", "mmap", nil},
		{"mmap, advised", "mmap", []string{"--fadvise_hint=random"}},
		{"libaio, direct", "libaio", []string{"--direct=1"}},
		{"io_uring", "io_uring", nil},
		{"io_uring, direct", "io_uring", []string{"--direct=1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			try := fio(t, work, append(fioReads(tc.engine, filepath.Join(tree, "zeros")), "--io_size=4k")...)
			if got := env.Run(t, try); got.Code != 0 {
				t.Skipf("needs a kernel with %s: %s", tc.engine, got.Stderr)
			}
			for _, file := range []string{"noise", "zeros"} {
				env.Must(t, fio(t, work, append(fioReads(tc.engine, filepath.Join(path, file)), tc.options...)...))
			}
		})
	}
	// It would notice.
	damaged := filepath.Join(work, "damaged")
	shell(t, `cp "$1" "$2" && printf x | dd of="$2" bs=1 seek=12345678 conv=notrunc status=none`, filepath.Join(tree, "noise"), damaged)
	if got := env.Run(t, fio(t, work, fioReads("psync", damaged)...)); got.Code == 0 {
		t.Errorf("fio found nothing wrong with a damaged file: %s", got.Stdout)
	}
}
