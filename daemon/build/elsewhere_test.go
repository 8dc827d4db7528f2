package build_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/narfs/narfs/daemon/build"
	"github.com/narfs/narfs/daemon/store"
	"github.com/narfs/narfs/internal/nix"
	"github.com/narfs/narfs/internal/nix/drv"
	"github.com/narfs/narfs/internal/nixwire"
	"github.com/narfs/narfs/internal/wire"
	"github.com/narfs/narfs/nar"
)

// machine is another one, as the builder knows it.
type machine struct {
	dial   func() error
	upload func() error
	build  func(p nix.StorePath, d *drv.BasicDerivation) (nixwire.BuildResult, error)
	infos  []nix.PathInfo // of what it has built
	nar    []byte

	mu   sync.Mutex // guards the rest
	kept []bool     // by Close
}

func (m *machine) Upload(context.Context, []nix.StorePath, bool) error {
	if m.upload != nil {
		return m.upload()
	}
	return nil
}

func (m *machine) Build(_ context.Context, p nix.StorePath, d *drv.BasicDerivation, _ build.Limits, log io.Writer) (nixwire.BuildResult, error) {
	_, _ = io.WriteString(log, "there\n")
	return m.build(p, d)
}

func (m *machine) Fetch(paths []nix.StorePath, take func(info nix.PathInfo, contents io.Reader) error) error {
	for _, info := range m.infos {
		if !slices.Contains(paths, info.Path) {
			return fmt.Errorf("%s was not asked for", info.Path)
		}
		if err := take(info, wire.NewReader(bytes.NewReader(m.nar))); err != nil {
			return err
		}
	}
	return nil
}

func (m *machine) Close(keep bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept = append(m.kept, keep)
}

// elsewhere is a store whose derivations are built by machines: those of the setting builders are ssh://NAME.
func elsewhere(t *testing.T, builders string, machines map[string]*machine) (s *store.Store, want func(ctx context.Context, p nix.StorePath, jobs int) (build.Result, string)) {
	t.Helper()
	s, err := store.Open(t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	b, err := build.New(s, build.Options{Dial: func(_ context.Context, to build.Machine) (build.Session, error) {
		m := machines[strings.TrimPrefix(to.Store, "ssh://")]
		if m.dial != nil {
			if err := m.dial(); err != nil {
				return nil, err
			}
		}
		return m, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s, func(ctx context.Context, p nix.StorePath, jobs int) (build.Result, string) {
		t.Helper()
		pins := s.Pin("test")
		defer pins.Release()
		var mu sync.Mutex
		var heard strings.Builder
		all, parseErr := build.ParseMachines(builders, "here")
		r := b.Build(ctx, []build.Wanted{{Path: p}}, build.Normal, build.Settings{
			MaxJobs: jobs, System: "none", Pins: pins, ImpureEnv: os.Getenv,
			Machines: func() ([]build.Machine, error) { return all, parseErr },
			Hear: func(e build.Event) {
				mu.Lock()
				defer mu.Unlock()
				heard.WriteString(e.Line)
				if e.Kind == build.EventStarted {
					heard.WriteString("on " + e.Machine)
				}
				if e.Kind == build.EventLine || e.Kind == build.EventStarted {
					heard.WriteString("\n")
				}
			},
		})[0]
		return r, heard.String()
	}
}

// contents are the NAR of a file.
func contents(t *testing.T, text string) (data []byte, hash nix.Hash) {
	t.Helper()
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := nar.Dump(&b, file, nar.DumpOptions{}); err != nil {
		t.Fatal(err)
	}
	sum := nix.SHA256.New()
	_, _ = sum.Write(b.Bytes())
	hash, err := nix.NewHash(nix.SHA256, sum.Sum(nil))
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), hash
}

func input() drv.Output { return drv.Output{Kind: drv.InputAddressed} }

// add adds a derivation with an output, and returns where that will be, unless only building shows that.
func add(t *testing.T, s *store.Store, name string, out drv.Output, env map[string]string) (p, output nix.StorePath) {
	t.Helper()
	d := &drv.Derivation{BasicDerivation: drv.BasicDerivation{
		Name: name, Outputs: map[string]drv.Output{"out": out}, Platform: "here", Builder: "/bin/sh", Env: env,
	}}
	if env == nil {
		d.Env = map[string]string{}
	}
	if out.Kind == drv.InputAddressed {
		d.Env["out"] = ""
		modulo, err := s.Modulo(t.Context(), &drv.Derivation{BasicDerivation: drv.BasicDerivation{
			Name: name, Outputs: map[string]drv.Output{"out": {Kind: drv.Deferred}}, Platform: "here", Builder: "/bin/sh", Env: d.Env,
		}})
		if err == nil {
			output, err = drv.OutputPath(s.Dir(), name, "out", modulo.Hash)
		}
		if err != nil {
			t.Fatal(err)
		}
		d.Outputs["out"], d.Env["out"] = drv.Output{Kind: drv.InputAddressed, Path: output}, s.Dir().Path(output)
	} else {
		var err error
		if output, err = out.StorePath(s.Dir(), name, "out"); err != nil {
			t.Fatal(err)
		}
		d.Env["out"] = build.OutputPlaceholder("out")
		if out.Kind == drv.Fixed {
			d.Env["out"] = s.Dir().Path(output)
		}
	}
	file, err := d.File(s.Dir())
	if err == nil {
		_, err = s.Add(t.Context(), bytes.NewReader(file.Text), store.AddOptions{Name: name + drv.Extension, Method: nix.MethodText, References: file.References})
	}
	if err != nil {
		t.Fatal(err)
	}
	return file.Path, output
}

// What a machine says of an output is believed only as far as it can be so.
func TestElsewhereOutputs(t *testing.T) {
	t.Parallel()
	data, hash := contents(t, "contents")
	other, err := nix.ParseBaseName("00000000000000000000000000000000-other")
	if err != nil {
		t.Fatal(err)
	}
	floating := drv.Output{Kind: drv.Floating, Method: nix.MethodNAR, Algo: nix.SHA256}
	fixed := drv.Output{Kind: drv.Fixed, CA: nix.ContentAddress{Method: nix.MethodNAR, Hash: hash}}
	_, elseHash := contents(t, "something else")
	wrong := drv.Output{Kind: drv.Fixed, CA: nix.ContentAddress{Method: nix.MethodNAR, Hash: elseHash}}
	for _, test := range []struct {
		name   string
		out    drv.Output
		change func(info *nix.PathInfo)
		err    string // "" if it is taken
	}{
		{"plain", input(), func(*nix.PathInfo) {}, ""},
		{"signed", input(), func(i *nix.PathInfo) { i.Ultimate, i.Deriver = true, other }, ""},
		{"hash", input(), func(i *nix.PathInfo) { i.NarHash = elseHash }, "hash mismatch"},
		{"size", input(), func(i *nix.PathInfo) { i.NarSize++ }, "size mismatch"},
		{"reference", input(), func(i *nix.PathInfo) { i.References = []nix.StorePath{other} }, "which is neither an input nor an output"},
		{"self", input(), func(i *nix.PathInfo) { i.References = []nix.StorePath{i.Path} }, ""},
		{"fixed", fixed, func(*nix.PathInfo) {}, ""},
		{"fixed-unsaid", fixed, func(i *nix.PathInfo) { i.CA = nix.ContentAddress{} }, ""},
		{"fixed-other", wrong, func(*nix.PathInfo) {}, "ca hash mismatch"},
		{"fixed-refers", fixed, func(i *nix.PathInfo) { i.References = []nix.StorePath{i.Path} }, "must not reference store paths"},
		{"floating", floating, func(*nix.PathInfo) {}, ""},
		{"floating-unsaid", floating, func(i *nix.PathInfo) { i.CA = nix.ContentAddress{} }, "its content address is ''"},
		{"floating-flat", floating, func(i *nix.PathInfo) { i.CA.Method = nix.MethodFlat }, "its content address is 'fixed:sha256:"},
		{"floating-other", floating, func(i *nix.PathInfo) { i.CA.Hash = elseHash }, "ca hash mismatch"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			m := &machine{nar: data}
			s, want := elsewhere(t, "m - - 1 1 ca-derivations", map[string]*machine{"m": m})
			p, output := add(t, s, test.name, test.out, map[string]string{})
			m.build = func(_ nix.StorePath, d *drv.BasicDerivation) (nixwire.BuildResult, error) {
				info := nix.PathInfo{Path: output, NarHash: hash, NarSize: uint64(len(data))}
				r := nixwire.BuildResult{Status: nixwire.Built}
				if test.out.Kind != drv.InputAddressed {
					info.CA = nix.ContentAddress{Method: nix.MethodNAR, Hash: hash}
				}
				if test.out.Kind == drv.Floating {
					var err error
					if info.Path, err = nix.MakePathFromCA(s.Dir(), d.Name, info.CA, nil, false); err != nil {
						return r, err
					}
					id := "sha256:" + strings.Repeat("0", 64) + "!out" // as Nix 2.36 has it
					r.Outputs = []nixwire.BuiltOutput{{ID: id, Realisation: fmt.Sprintf(`{"id":%q,"outPath":%q}`, id, info.Path.BaseName())}}
				}
				test.change(&info)
				m.infos = []nix.PathInfo{info}
				return r, nil
			}
			r, heard := want(t.Context(), p, 0)
			if test.err != "" {
				if r.Status != nixwire.OutputRejected || !strings.Contains(r.Err, test.err) {
					t.Errorf("result %v: %s; want %q", r.Status, r.Err, test.err)
				}
				if slices.Contains(m.kept, true) {
					t.Error("the connection is used on")
				}
				return
			}
			if !r.OK() || !strings.Contains(heard, "on ssh://m\nthere\n") {
				t.Fatalf("result %v: %s; heard %q", r.Status, r.Err, heard)
			}
			info, err := s.PathInfo(r.Outputs[0].Path)
			if err != nil || info.Deriver != p || info.Ultimate || info.NarHash != hash {
				t.Errorf("info %+v, %v", info, err)
			}
			if test.out.Kind == drv.Floating {
				if known, err := s.KnownRealisation(r.Outputs[0].Realisation.ID); err != nil || known.OutPath != info.Path {
					t.Errorf("realisation %+v, %v", known, err)
				}
			}
		})
	}
}

// What fails, and what is done about it: a machine that cannot be reached costs nothing, one that goes away in the middle may do so once.
func TestElsewhereTroubles(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	gone := func() *machine {
		return &machine{build: func(nix.StorePath, *drv.BasicDerivation) (nixwire.BuildResult, error) {
			return nixwire.BuildResult{}, broken
		}}
	}
	fails := &machine{build: func(nix.StorePath, *drv.BasicDerivation) (nixwire.BuildResult, error) {
		return nixwire.BuildResult{Status: nixwire.TimedOut, ErrorMsg: "it took too long"}, nil
	}}
	dead := &machine{dial: func() error { return broken }}
	full := &machine{upload: func() error { return broken }}
	for _, test := range []struct {
		name, builders string
		env            map[string]string
		machines       map[string]*machine
		status         nixwire.Status
		err            []string
		tried          int // connections
	}{
		{"fails", "a;b", nil, map[string]*machine{"a": fails, "b": fails}, nixwire.TimedOut, []string{"on 'ssh://a' failed: it took too long"}, 1},
		{
			"dead", "a;b;c", nil,
			map[string]*machine{"a": dead, "b": dead, "c": dead},
			nixwire.MiscFailure,
			[]string{"Failed to find a machine", "'ssh://a' is not taken: broken", "'ssh://c' is not taken: broken", "and not here: local builds are disabled"},
			0,
		},
		{"dead-but-one", "a;b;c", nil, map[string]*machine{"a": dead, "b": dead, "c": fails}, nixwire.TimedOut, []string{"on 'ssh://c' failed"}, 1},
		{"gone", "a", nil, map[string]*machine{"a": gone()}, nixwire.TransientFailure, []string{"Failed to find a machine", "'ssh://a' is not taken: broken"}, 1},
		{"gone-once", "a;b", nil, map[string]*machine{"a": gone(), "b": fails}, nixwire.TimedOut, []string{"on 'ssh://b' failed"}, 2},
		{"gone-twice", "a;b;c", nil, map[string]*machine{"a": gone(), "b": gone(), "c": fails}, nixwire.TransientFailure, []string{"cannot build on 'ssh://b': broken"}, 2},
		{"full", "a;b", nil, map[string]*machine{"a": full, "b": fails}, nixwire.TimedOut, []string{"on 'ssh://b' failed"}, 2},
		{
			"unsuitable", "a mips - 1 1 - big;b - - 0", nil,
			map[string]*machine{},
			nixwire.MiscFailure,
			[]string{"([mips], 1, [], [big])", "'ssh://a' is not taken: it builds for mips", "'ssh://b' is not taken: its number of jobs is 0"},
			0,
		},
		{
			"structured", "a;b - - 1 1 kvm",
			map[string]string{"__json": `{"requiredSystemFeatures":["kvm"]}`},
			map[string]*machine{"b": fails},
			nixwire.TimedOut,
			[]string{"on 'ssh://b' failed"},
			1,
		},
		{"prefers-here", "a", map[string]string{"preferLocalBuild": "1"}, map[string]*machine{"a": fails}, nixwire.TimedOut, []string{"on 'ssh://a' failed"}, 1},
		{"bad", "a - - x", nil, nil, nixwire.MiscFailure, []string{"builders:1: bad machine specification"}, 0},
		{"none", "", nil, nil, nixwire.MiscFailure, []string{"unable to start any build", "local builds are disabled (max-jobs = 0)"}, 0},
	} {
		for _, m := range test.machines {
			m.kept = nil
		}
		s, want := elsewhere(t, test.builders, test.machines)
		p, _ := add(t, s, test.name, input(), maps.Clone(test.env))
		r, _ := want(t.Context(), p, 0)
		tried := map[*machine]int{}
		n := 0
		for _, m := range test.machines {
			tried[m] = len(m.kept)
		}
		for _, k := range tried {
			n += k
		}
		if r.Status != test.status || n != test.tried {
			t.Errorf("%s: status %v, %d connections; want %v, %d: %s", test.name, r.Status, n, test.status, test.tried, r.Err)
		}
		for _, text := range test.err {
			if !strings.Contains(r.Err, text) {
				t.Errorf("%s: %q is not in %s", test.name, text, r.Err)
			}
		}
	}
}

// Who finds all machines busy waits until one is free, and who is not willing to wait leaves.
func TestElsewhereBusy(t *testing.T) {
	t.Parallel()
	var now, most atomic.Int32
	begun, proceed := make(chan struct{}), make(chan struct{})
	m := &machine{build: func(nix.StorePath, *drv.BasicDerivation) (nixwire.BuildResult, error) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		begun <- struct{}{}
		<-proceed
		now.Add(-1)
		return nixwire.BuildResult{Status: nixwire.PermanentFailure, ErrorMsg: "done"}, nil
	}}
	s, want := elsewhere(t, "m - - 2", map[string]*machine{"m": m})
	var all sync.WaitGroup
	for i := range 6 {
		p, _ := add(t, s, fmt.Sprintf("busy-%d", i), input(), map[string]string{})
		all.Go(func() {
			if r, _ := want(t.Context(), p, 0); r.Status != nixwire.PermanentFailure {
				t.Errorf("status %v: %s", r.Status, r.Err)
			}
		})
	}
	<-begun
	<-begun
	p, _ := add(t, s, "impatient", input(), map[string]string{})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if r, _ := want(ctx, p, 0); !strings.Contains(r.Err, "was interrupted") {
		t.Errorf("who has left has %s", r.Err)
	}
	for range 4 {
		proceed <- struct{}{}
		<-begun
	}
	proceed <- struct{}{}
	proceed <- struct{}{}
	all.Wait()
	if most.Load() != 2 {
		t.Errorf("%d at a time; want 2", most.Load())
	}
}

// That a fixed output has another hash is told apart, wherever it was found out; that a builder has spoken of such a thing is not.
func TestElsewhereWrongHash(t *testing.T) {
	t.Parallel()
	for text, wrong := range map[string]bool{"hash mismatch in fixed-output derivation 'x'": true, "builder failed; last line: > hash mismatch in it": false} {
		m := &machine{build: func(nix.StorePath, *drv.BasicDerivation) (nixwire.BuildResult, error) {
			return nixwire.BuildResult{Status: nixwire.OutputRejected, ErrorMsg: text}, nil
		}}
		s, want := elsewhere(t, "m - - 1 1 ca-derivations", map[string]*machine{"m": m})
		p, _ := add(t, s, "some", drv.Output{Kind: drv.Floating, Method: nix.MethodNAR, Algo: nix.SHA256}, map[string]string{})
		r, _ := want(t.Context(), p, 0)
		if r.Status != nixwire.OutputRejected || r.WrongHash != wrong || !strings.HasSuffix(r.Err, "on 'ssh://m' failed: "+text) {
			t.Errorf("result %v, %v: %s; want %v", r.Status, r.WrongHash, r.Err, wrong)
		}
	}
}
